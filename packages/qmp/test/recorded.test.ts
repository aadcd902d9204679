import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createJsonStream, createQmpServer, type JsonValue, jsonText, qmpSchema } from '../src/index.js';

interface Exchange {
	readonly negotiated: boolean;
	readonly input: string;
	readonly output: readonly JsonValue[];
}

const exchanges = JSON.parse(
	readFileSync(new URL('./vectors/qemu-7.2.22.json', import.meta.url), 'utf8'),
) as readonly Exchange[];

const server = createQmpServer(qmpSchema, {
	handlers: {
		'query-status': () => ({ status: 'running', singlestep: false, running: true }),
		'query-name': () => ({}),
		migrate: () => undefined,
		'migrate-set-parameters': () => undefined,
		'migrate-set-capabilities': () => undefined,
		'sev-inject-launch-secret': () => undefined,
		pmemsave: () => undefined,
	},
	version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'model' },
	clock: () => 0,
});

const latin1 = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** Answers to `input` as values; the greeting, the negotiation and the answer to the recorder's marker are left out. */
function answersTo({ negotiated, input }: Exchange): JsonValue[] {
	const values: JsonValue[] = [];
	const reader = createJsonStream((message) => {
		if ('error' in message) throw new Error(message.error);
		values.push(message.value);
	});
	const session = server.open((data) => reader.receive(data));
	if (negotiated) session.receive(latin1('{"execute":"qmp_capabilities"}'));
	session.receive(latin1(`${input}\xff\n{"execute":"nothing","id":"end"}`));
	// The recording lost what a double cannot hold; so do we, to compare.
	return values.slice(negotiated ? 2 : 1, -1).map((v) => JSON.parse(jsonText(v)) as JsonValue);
}

describe('answers as QEMU 7.2.22 was recorded to', () => {
	it.each(exchanges.map((e) => [JSON.stringify(e.input).slice(0, 100), e] as const))('%s', (_, exchange) => {
		expect(answersTo(exchange)).toEqual(exchange.output);
	});
});
