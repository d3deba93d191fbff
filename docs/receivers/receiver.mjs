// A receiver of callbacks. It needs Node 18 or later and no packages.
//
//   WEBHOOK_SECRETS='whsec_...' node receiver.mjs
//
// WEBHOOK_SECRETS: one or more secrets (whsec_) or public keys (whpk_), separated by spaces.
// PORT: the port on loopback, 8001 by default; 0 takes a free one.
// INBOX: the folder that stores each callback once, as ID.json; "inbox" by default.

import {
  createHmac,
  createPublicKey,
  randomUUID,
  timingSafeEqual,
  verify as verifySignature,
} from 'node:crypto';
import { link, mkdir, open, unlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';

const TOLERANCE = 5 * 60; // seconds
const MAX_BODY = 64 * 1024; // bytes

class Refused extends Error {}

// Turns a key into a function that checks a signature (`version,base64`) of a content.
function readKey(text) {
  const bytes = Buffer.from(text.slice(text.indexOf('_') + 1), 'base64');
  if (text.startsWith('whsec_')) {
    return (content, signature) => {
      const digest = createHmac('sha256', bytes).update(content).digest('base64');
      const [expected, given] = [Buffer.from(`v1,${digest}`), Buffer.from(signature)];
      // In constant time: a comparison that stops early reveals how much of a guess is right.
      return expected.length === given.length && timingSafeEqual(expected, given);
    };
  }
  if (text.startsWith('whpk_') && bytes.length === 32) {
    const x = bytes.toString('base64url');
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
    return (content, signature) => {
      const [version, base64] = signature.split(',');
      const decoded = Buffer.from(base64 ?? '', 'base64');
      return version === 'v1a' && verifySignature(null, content, key, decoded);
    };
  }
  throw new Error('WEBHOOK_SECRETS: every key begins with whsec_ or whpk_');
}

// Returns the callback's id, or throws Refused. `body` is the raw request body.
function verify(keys, headers, body) {
  const id = headers['webhook-id'];
  const timestamp = headers['webhook-timestamp'];
  const signatures = headers['webhook-signature'];
  if (!id || !signatures || !/^[0-9]{1,12}$/.test(timestamp ?? '')) {
    throw new Refused('a header is missing or malformed');
  }
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) {
    throw new Refused('the timestamp is more than five minutes off');
  }
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  for (const signature of signatures.split(' ')) {
    if (keys.some((isRight) => isRight(content, signature))) return id;
  }
  throw new Refused('no signature matches');
}

// Stores the body durably, once. Returns false for a repeat.
async function keep(inbox, id, body) {
  if (!/^[0-9A-Za-z_-]{1,100}$/.test(id)) throw new Refused('the id is not a valid file name');
  const draft = join(inbox, `.${randomUUID()}`);
  const file = await open(draft, 'wx');
  try {
    await file.writeFile(body);
    await file.sync();
    // A link is atomic and fails if the name exists: a crash leaves no partial file, and of two
    // concurrent repeats only one is new.
    await link(draft, join(inbox, `${id}.json`));
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  } finally {
    await file.close();
    await unlink(draft);
  }
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

async function receive(request) {
  const body = await read(request);
  if (body === undefined) return 413;
  if (request.url !== '/webhook') return 404;
  if (request.method !== 'POST') return 405;
  try {
    const id = verify(keys, request.headers, body);
    const isNew = await keep(inbox, id, body);
    console.log(isNew ? 'accepted' : 'repeated', id);
    // Process the callback later, from the inbox: a late answer means a retry.
    return 204;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log(`refused: ${error.message}`);
    return 401;
  }
}

const keys = (process.env.WEBHOOK_SECRETS ?? '').split(/\s+/).filter(Boolean).map(readKey);
if (keys.length === 0) throw new Error('WEBHOOK_SECRETS: not set');
const inbox = process.env.INBOX ?? 'inbox';
await mkdir(inbox, { recursive: true });

const server = createServer((request, response) => {
  receive(request).then(
    (status) => response.writeHead(status).end(),
    (error) => {
      console.error(error);
      response.writeHead(500).end(); // the worker retries
    },
  );
});
server.listen(Number(process.env.PORT ?? 8001), '127.0.0.1', () => {
  console.log(`listening at http://127.0.0.1:${server.address().port}/webhook`);
});
