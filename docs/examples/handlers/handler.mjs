// An endpoint of an HTTP handler: it counts words. It needs Node 18 or later and no packages.
//
//   HANDLER_SECRETS='whsec_...' node handler.mjs
//
// HANDLER_SECRETS: one or more secrets, separated by spaces: the handler's `secret`.
// PORT: the port on loopback, 9100 by default; 0 takes a free one.
// RESULTS: the folder that stores each result once, as ID.json; "results" by default.
// WORK_SECONDS: how long the work takes, 2 by default.

import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import { link, mkdir, open, readFile, unlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const TOLERANCE = 5 * 60; // seconds
const MAX_BODY = 256 * 1024; // bytes: the handler's `max_payload`

class Refused extends Error {}

function readSecret(text) {
  if (!text.startsWith('whsec_')) {
    throw new Error('HANDLER_SECRETS: every secret begins with whsec_');
  }
  return Buffer.from(text.slice('whsec_'.length), 'base64');
}

// Returns the request's id, or throws Refused. `body` is the raw request body.
function verify(secrets, headers, body) {
  const id = headers['webhook-id'] ?? '';
  const timestamp = headers['webhook-timestamp'] ?? '';
  const signatures = headers['webhook-signature'];
  if (!signatures || !/^[0-9]{1,12}$/.test(timestamp)) {
    throw new Refused('a header is missing or malformed');
  }
  // The signature covers webhook-id, and not idempotency-key. It also becomes a file's name.
  if (headers['idempotency-key'] !== id || !/^[0-9a-f-]{36}$/.test(id)) {
    throw new Refused('the idempotency key is not the signed id');
  }
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) {
    throw new Refused('the timestamp is more than five minutes off');
  }
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  for (const secret of secrets) {
    const digest = createHmac('sha256', secret).update(content).digest('base64');
    const expected = Buffer.from(`v1,${digest}`);
    for (const signature of signatures.split(' ').map((text) => Buffer.from(text))) {
      // In constant time: a comparison that stops early reveals how much of a guess is right.
      if (expected.length === signature.length && timingSafeEqual(expected, signature)) return id;
    }
  }
  throw new Refused('no signature matches');
}

// Returns the result, or undefined for a payload that no attempt could work on.
async function work(body, signal) {
  let text;
  try {
    text = JSON.parse(body)?.text;
  } catch {
    return undefined;
  }
  if (typeof text !== 'string') return undefined;
  await sleep(workSeconds * 1000, undefined, { signal });
  return JSON.stringify({ words: text.split(/\s+/).filter(Boolean).length });
}

// Stores the result durably. Returns false if there is one: the first one stays.
async function keep(path, result) {
  const draft = join(results, `.${randomUUID()}`);
  const file = await open(draft, 'wx');
  try {
    await file.writeFile(result);
    await file.sync();
    // A link is atomic and fails if the name exists: a crash leaves no partial file.
    await link(draft, path);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  } finally {
    await file.close();
    await unlink(draft);
  }
}

async function stored(path) {
  try {
    return await readFile(path);
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

// Does the work, unless its result is stored. Returns the result, or undefined.
//
// Two attempts at the same moment can both work; one result stays. If yours must not, lock the key
// first: insert it into a table where it is unique, in the transaction that does the work.
async function doOnce(key, body, signal) {
  const path = join(results, `${key}.json`);
  let result = await stored(path);
  let isNew = false;
  if (result === undefined) {
    const done = await work(body, signal);
    if (done === undefined) return undefined;
    isNew = await keep(path, done);
    result = await stored(path);
  }
  console.log(isNew ? 'done' : 'repeated', key);
  return result;
}

async function read(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

// Returns the status, the body and its type.
async function answer(request, signal) {
  if (request.method !== 'POST') return [405, 'expected POST'];
  const body = await read(request);
  if (body === undefined) return [413, 'the payload is too large'];
  let key;
  try {
    key = verify(secrets, request.headers, body);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log(`refused: ${error.message}`);
    return [401, 'not authentic'];
  }
  const result = await doOnce(key, body, signal);
  if (result === undefined) return [422, 'expected {"text": "..."}'];
  return [200, result, 'application/json'];
}

const secrets = (process.env.HANDLER_SECRETS ?? '').split(/\s+/).filter(Boolean).map(readSecret);
if (secrets.length === 0) throw new Error('HANDLER_SECRETS: not set');
const workSeconds = Number(process.env.WORK_SECONDS ?? 2);
const results = process.env.RESULTS ?? 'results';
await mkdir(results, { recursive: true });

const server = createServer((request, response) => {
  // The worker closes the connection when the attempt is over: the work ends, too.
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  answer(request, gone.signal).then(
    ([status, body, type = 'text/plain']) => {
      const headers = { 'content-type': type, 'content-length': Buffer.byteLength(body) };
      response.writeHead(status, headers).end(body);
    },
    (error) => {
      if (gone.signal.aborted) return;
      console.error(error);
      response.writeHead(500).end(); // the worker retries
    },
  );
});
server.listen(Number(process.env.PORT ?? 9100), '127.0.0.1', () => {
  console.log(`listening at http://127.0.0.1:${server.address().port}/`);
});
