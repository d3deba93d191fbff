// A client whose types are generated from the description of the API: submits a job, waits for it,
// lists it, cancels another, and reads what a refusal says. Run by scripts/tests/openapi.sh.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

type Problem = components['schemas']['Problem'];

const [base, token] = [process.env.STORM_API!, process.env.STORM_TOKEN!];
const api = createClient<paths>({ baseUrl: base, headers: { authorization: `Bearer ${token}` } });

function expect(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`expected ${what}`);
}

// Submitted twice: the key makes it one job.
const submission = {
  body: { records: 10, report_name: 'Q1_Finance' },
  params: { header: { 'Idempotency-Key': `typescript-${Date.now()}` } },
};
const first = await api.POST('/async', submission);
expect(first.response.status === 202 && first.data !== undefined, 'a 202');
expect('request_id' in first.data, 'an accepted job');
const id = first.data.request_id;
const repeated = await api.POST('/async', submission);
expect(repeated.response.headers.get('idempotent-replayed') === 'true', 'a repeat');

// The long poll ends with the job.
const found = await api.GET('/requests/{id}', { params: { path: { id }, query: { wait: '60s' } } });
expect(found.data?.status === 'COMPLETED', `a finished job, not ${found.data?.status}`);
const result = found.data.result_payload as { checksum: string };
expect(/^[0-9a-f]{64}$/.test(result.checksum), 'a checksum');

const page = await api.GET('/requests', { params: { query: { status: 'COMPLETED', limit: 1 } } });
expect(page.data?.requests[0]?.id === id, 'the newest request');

const long = await api.POST('/async', { body: { records: 100000, report_name: 'a long one' } });
expect(long.data !== undefined && 'request_id' in long.data, 'another job');
const path = { id: long.data.request_id };
const cancelled = await api.DELETE('/requests/{id}', { params: { path } });
expect(cancelled.data?.failure?.reason === 'cancelled', 'a cancelled job');

// A refusal has the type of a problem.
const refused = await api.POST('/async', { body: { records: 0, report_name: '' } });
expect(refused.response.status === 422 && refused.error !== undefined, 'a 422');
const problem: Problem = refused.error;
expect(problem.type === 'urn:storm:problem:validation', problem.type);
const fields = (problem.errors ?? []).map((error) => error.field);
expect(fields.join() === 'records,report_name', `both faults, not ${fields.join()}`);

const conflict = await api.DELETE('/requests/{id}', { params: { path: { id } } });
expect(conflict.error?.type === 'urn:storm:problem:request-over', 'a job that is over');
console.log('typescript: all is as described');
