import { checkArguments } from './argument-types.js';
import { isQmpError, QmpErrorClass } from './error.js';
import { createJsonStream, type JsonMessage } from './json-stream.js';
import { isJsonObject, type JsonObject, type JsonValue, jsonText } from './json-value.js';
import type { VersionInfo } from './results.js';
import type { HandlerContext, QmpHandlers, QmpSchema } from './schema.js';
import { asciiBytes } from './utf8.js';

/** Microseconds since 1970, for the time stamps of events. */
export type QmpClock = () => number;

/** What a server needs. */
export interface QmpServerOptions<S extends QmpSchema> {
	/** Commands without a handler are answered as unknown and not listed. */
	readonly handlers: Partial<QmpHandlers<NoInfer<S>>>;
	readonly version: VersionInfo;
	readonly clock: QmpClock;
	/** Told of anything a handler throws that is not a `QmpError`; the client gets its message as a GenericError. */
	readonly onFault?: (command: string, error: unknown) => void;
}

/** Serves commands to one session at a time. */
export interface QmpServer {
	/** Starts a session with its greeting, in negotiation. `send` gets whole lines. */
	open(send: (data: Uint8Array) => void): QmpSession;
	/** Sends an event to every session past its negotiation. */
	emit(event: string, data?: JsonObject): void;
}

/** One client's connection. */
export interface QmpSession {
	/** Takes bytes from the client. Commands run in order, each after the answer of the one before. */
	receive(data: Uint8Array): void;
	/** Commands waiting or running: stop reading from the client while this is high. */
	readonly backlog: number;
	/** Called whenever the backlog shrank to nothing. */
	onIdle: (() => void) | undefined;
	/** Forgets waiting commands and sends no more. */
	close(): void;
}

interface Request {
	readonly name: string;
	readonly arguments: JsonObject;
	readonly id: JsonValue | undefined;
}

interface Failure {
	readonly code: string;
	readonly desc: string;
}
const generic = (desc: string): Failure => ({ code: QmpErrorClass.genericError, desc });
const notFound = (desc: string): Failure => ({ code: QmpErrorClass.commandNotFound, desc });

type Envelope = { readonly oob: boolean; readonly name: string; readonly arguments: JsonObject };

/** Checks the members of a command object with QEMU's words (qemu 7.2 qapi/qmp-dispatch.c). */
function readEnvelope(input: JsonObject, oobAllowed: boolean): Envelope | Failure {
	let execute: { member: string; name: string } | undefined;
	let args: JsonObject = {};
	for (const [member, value] of Object.entries(input)) {
		if (member === 'execute' || (member === 'exec-oob' && oobAllowed)) {
			// In this order whichever came first: QEMU walks its hash table.
			if (execute) return generic("QMP input member 'execute' clashes with 'exec-oob'");
			if (typeof value !== 'string') return generic(`QMP input member '${member}' must be a string`);
			execute = { member, name: value };
		} else if (member === 'arguments') {
			if (!isJsonObject(value)) return generic("QMP input member 'arguments' must be an object");
			args = value;
		} else if (member !== 'id') {
			return generic(`QMP input member '${member}' is unexpected`);
		}
	}
	if (!execute) return generic("QMP input lacks member 'execute'");
	return { oob: execute.member === 'exec-oob', name: execute.name, arguments: args };
}

type Handler = (args: never, context: HandlerContext) => unknown;
const isPromise = (value: unknown): value is Promise<unknown> => value instanceof Promise;

/**
 * A QMP server (qemu 7.2 docs/interop/qmp-spec.txt, monitor/qmp.c) without sockets: see `@cvm/qmp/node` for those.
 * `schema` is `qmpSchema`, or that and your own commands. Answers `qmp_capabilities`, `query-version` and `query-commands` itself.
 */
export function createQmpServer<S extends QmpSchema>(schema: S, options: QmpServerOptions<S>): QmpServer {
	const { version, clock, onFault } = options;
	const handlers = new Map<string, Handler>();
	for (const [name, handler] of Object.entries<Handler | undefined>(options.handlers)) {
		if (handler) handlers.set(name, handler);
	}
	handlers.set('query-version', () => version);
	handlers.set('query-commands', () => names.map((name) => ({ name })));
	const names = Object.keys(schema).filter((name) => name === 'qmp_capabilities' || handlers.has(name));
	const sessions = new Set<{ event(line: string): void }>();

	const emit = (event: string, data?: JsonObject) => {
		const now = clock();
		const timestamp = { seconds: Math.floor(now / 1e6), microseconds: Math.floor(now % 1e6) };
		const line = jsonText(data ? { timestamp, event, data } : { timestamp, event });
		for (const session of sessions) session.event(line);
	};

	const open = (send: (data: Uint8Array) => void): QmpSession => {
		let negotiating = true;
		let oobEnabled = false;
		let closed = false;
		let busy = false;
		// A request, or an answer that must wait for those before it.
		const queue: (Request | string)[] = [];

		const line = (text: string) => {
			if (!closed) send(asciiBytes(`${text}\r\n`));
		};
		const failed = ({ code, desc }: Failure, id?: JsonValue) =>
			jsonText({ ...(id === undefined ? {} : { id }), error: { class: code, desc } });
		const succeeded = (value: unknown, id?: JsonValue) =>
			jsonText({ return: (value ?? {}) as JsonValue, ...(id === undefined ? {} : { id }) });

		const refuse = (name: string, error: unknown, id: JsonValue | undefined) => {
			if (isQmpError(error)) return failed({ code: error.code, desc: error.message }, id);
			onFault?.(name, error);
			return failed(generic(error instanceof Error ? error.message : String(error)), id);
		};

		const negotiate = (enable: readonly string[] | undefined, id: JsonValue | undefined) => {
			negotiating = false;
			oobEnabled = enable?.includes('oob') ?? false;
			return succeeded(undefined, id);
		};

		/** The answer, or a promise of it. */
		const run = ({ name, arguments: given, id }: Request): string | Promise<string> => {
			const negotiation = name === 'qmp_capabilities';
			if (negotiating && !negotiation) {
				return failed(notFound("Expecting capabilities negotiation with 'qmp_capabilities'"), id);
			}
			const known = Object.hasOwn(schema, name) ? schema[name] : undefined;
			if (!known || !names.includes(name)) return failed(notFound(`The command ${name} has not been found`), id);
			const checked = checkArguments(known.arguments, given);
			if ('error' in checked) return failed(generic(checked.error), id);
			if (negotiation) {
				if (!negotiating) {
					return failed(notFound('Capabilities negotiation is already complete, command ignored'), id);
				}
				return negotiate(checked.value['enable'] as readonly string[] | undefined, id);
			}
			try {
				const result = handlers.get(name)?.(checked.value as never, { emit });
				if (!isPromise(result)) return succeeded(result, id);
				return result.then(
					(value) => succeeded(value, id),
					(error: unknown) => refuse(name, error, id),
				);
			} catch (error) {
				return refuse(name, error, id);
			}
		};

		const pump = () => {
			if (busy) return;
			for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
				const answer = typeof next === 'string' ? next : run(next);
				if (typeof answer === 'string') {
					line(answer);
					continue;
				}
				busy = true;
				void answer.then((text) => {
					busy = false;
					line(text);
					pump();
				});
				return;
			}
			session.onIdle?.();
		};

		const onMessage = (message: JsonMessage) => {
			if (closed) return;
			if ('error' in message) {
				queue.push(failed(generic(message.error)));
				return;
			}
			const input = message.value;
			if (!isJsonObject(input)) {
				queue.push(failed(generic('QMP input must be a JSON object')));
				return;
			}
			const id = Object.hasOwn(input, 'id') ? input['id'] : undefined;
			const envelope = readEnvelope(input, oobEnabled);
			if ('code' in envelope) {
				queue.push(failed(envelope, id));
				return;
			}
			const request = { name: envelope.name, arguments: envelope.arguments, id };
			if (!envelope.oob) {
				queue.push(request);
				return;
			}
			if (names.includes(request.name) && !schema[request.name]?.oob) {
				line(failed(generic(`The command ${request.name} does not support OOB`), id));
				return;
			}
			const answer = run(request);
			if (typeof answer === 'string') line(answer);
			else void answer.then(line);
		};
		const stream = createJsonStream(
			(message) => {
				onMessage(message);
				// Before the next message is read, so that a negotiation takes effect on it.
				pump();
			},
			{ integers: 'bigint' },
		);

		const listener = { event: (text: string) => (negotiating ? undefined : line(text)) };
		const session: QmpSession = {
			receive: (data) => stream.receive(data),
			get backlog() {
				return queue.length + (busy ? 1 : 0);
			},
			onIdle: undefined,
			close: () => {
				closed = true;
				queue.length = 0;
				sessions.delete(listener);
			},
		};
		sessions.add(listener);
		line(jsonText({ QMP: { version, capabilities: ['oob'] } }));
		return session;
	};

	return { open, emit };
}
