// A receiver of callbacks. Node 18 or later, nothing else.
//
//   WEBHOOK_SECRETS='whsec_...' node receiver.mjs
//
// WEBHOOK_SECRETS: one or more secrets (whsec_) or public keys (whpk_), between spaces. PORT: 8001, or 0 for a
// free one. INBOX: a folder, into which each callback is written once, as ID.json.

import { createHmac, createPublicKey, randomUUID, timingSafeEqual, verify as verifySignature } from 'node:crypto';
import { link, mkdir, open, unlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';

const TOLERANCE = 5 * 60; // seconds
const MAX_BODY = 64 * 1024; // bytes

class Refused extends Error {}

// A key as a function: is this signature, with its version before it, right for this content?
function readKey(text) {
  const bytes = Buffer.from(text.slice(text.indexOf('_') + 1), 'base64');
  if (text.startsWith('whsec_')) {
    return (content, signature) => {
      const digest = createHmac('sha256', bytes).update(content).digest('base64');
      const [expected, given] = [Buffer.from(`v1,${digest}`), Buffer.from(signature)];
      // In constant time: a comparison that stops early tells how much of a guess was right.
      return expected.length === given.length && timingSafeEqual(expected, given);
    };
  }
  if (text.startsWith('whpk_') && bytes.length === 32) {
    const x = bytes.toString('base64url');
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
    return (content, signature) => {
      const [version, base64] = signature.split(',');
      return version === 'v1a' && verifySignature(null, content, key, Buffer.from(base64 ?? '', 'base64'));
    };
  }
  throw new Error('WEBHOOK_SECRETS: every key begins with whsec_ or whpk_');
}

// Gives the callback's id, or throws Refused. `body` is what came, byte for byte.
function verify(keys, headers, body) {
  const id = headers['webhook-id'];
  const timestamp = headers['webhook-timestamp'];
  const signatures = headers['webhook-signature'];
  if (!id || !signatures || !/^[0-9]{1,12}$/.test(timestamp ?? '')) {
    throw new Refused('a header is missing, or is none');
  }
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) {
    throw new Refused('it is too old, or a clock is wrong');
  }
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  for (const signature of signatures.split(' ')) {
    if (keys.some((isRight) => isRight(content, signature))) return id;
  }
  throw new Refused('no signature is right');
}

// Writes it down for good, once. False where it was there: a repeat.
async function keep(inbox, id, body) {
  if (!/^[0-9A-Za-z_-]{1,100}$/.test(id)) throw new Refused("its id is no file's name");
  const draft = join(inbox, `.${randomUUID()}`);
  const file = await open(draft, 'wx');
  try {
    await file.writeFile(body);
    await file.sync();
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
    // What it means is found out later, from the inbox: whoever answers late is called again.
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
      response.writeHead(500).end(); // it is called again
    },
  );
});
server.listen(Number(process.env.PORT ?? 8001), '127.0.0.1', () => {
  console.log(`listening at http://127.0.0.1:${server.address().port}/webhook`);
});
