import { QmpConnectionError, QmpError } from './error.js';
import { createJsonStream, type JsonMessage } from './json-stream.js';
import { isJsonObject, type JsonObject, type JsonValue, jsonText } from './json-value.js';
import type { CommandInput, CommandResult, QmpSchema, qmpSchema } from './schema.js';
import { asciiBytes } from './utf8.js';

/** A connection's bytes both ways. */
export interface DuplexPort {
	write(data: Uint8Array): void;
	close(): void;
	/** Called once. Bytes that arrived earlier are delivered then. `end` is called at most once, with an error if there was one. */
	listen(on: { data(data: Uint8Array): void; end(error?: Error): void }): void;
}

/** An event of the server. */
export interface QmpEvent {
	readonly event: string;
	readonly data: JsonObject;
	readonly timestamp: { readonly seconds: number; readonly microseconds: number };
}

type NoArguments = Record<never, never>;
type MayBeLeftOut<T> = NoArguments extends T ? [args?: T] : [args: T];

/** A negotiated connection to a QMP server. `S` types the commands. */
export interface QmpClient<S extends QmpSchema = typeof qmpSchema> {
	/** The `QMP` member of the greeting. */
	readonly greeting: JsonObject;
	/**
	 * Runs a command and resolves with its answer.
	 *
	 * @throws QmpError (rejects) with the server's error
	 * @throws QmpConnectionError (rejects) if the connection ends first
	 */
	execute<K extends keyof S & string>(name: K, ...args: MayBeLeftOut<CommandInput<S[K]>>): Promise<CommandResult<S[K]>>;
	/** Calls `listener` for every event from now on; the result stops it. */
	onEvent(listener: (event: QmpEvent) => void): () => void;
	/** The next event of this name that `accept` takes; rejects if the connection ends first. */
	waitFor(name: string, accept?: (data: JsonObject) => boolean): Promise<QmpEvent>;
	/** Ends the connection; commands still waiting are rejected. */
	close(): void;
	/** Resolves when the connection has ended, for whatever reason. */
	readonly closed: Promise<void>;
}

interface Waiting<T> {
	resolve(value: T): void;
	reject(error: Error): void;
}

function eventOf(message: JsonObject): QmpEvent | undefined {
	const { event, timestamp, data = {} } = message;
	if (typeof event !== 'string' || !isJsonObject(timestamp) || !isJsonObject(data)) return undefined;
	return {
		event,
		data,
		timestamp: { seconds: Number(timestamp['seconds']), microseconds: Number(timestamp['microseconds']) },
	};
}

/** The state shared by the functions of one client. */
interface Connection {
	greeting: JsonObject | undefined;
	ended: QmpConnectionError | undefined;
	readonly commands: Map<number, Waiting<unknown> & { readonly name: string }>;
	readonly events: Set<(event: QmpEvent) => void>;
	readonly ends: Set<(error: QmpConnectionError) => void>;
}

/**
 * Waits for the greeting, negotiates and gives a client.
 *
 * @throws QmpConnectionError (rejects) if the connection ends or does not speak QMP
 */
export async function connectQmp<S extends QmpSchema = typeof qmpSchema>(port: DuplexPort): Promise<QmpClient<S>> {
	const state: Connection = {
		greeting: undefined,
		ended: undefined,
		commands: new Map(),
		events: new Set(),
		ends: new Set(),
	};
	let nextId = 1;

	const end = (error: QmpConnectionError) => {
		if (state.ended) return;
		state.ended = error;
		port.close();
		for (const { name, reject } of state.commands.values()) {
			reject(
				new QmpConnectionError(error.code, `${name}: expected an answer, got: ${error.message}`, { cause: error }),
			);
		}
		state.commands.clear();
		for (const listener of [...state.ends]) listener(error);
		state.events.clear();
	};
	const bad = (what: string) =>
		end(new QmpConnectionError('protocol', `QMP server: expected a QMP message, got ${what}`));

	const answered = (message: JsonObject) => {
		const id = Number(message['id']);
		const waiting = state.commands.get(id);
		const { error } = message;
		if (!waiting) return bad(error === undefined ? 'an answer to no command' : `the error ${jsonText(error)}`);
		state.commands.delete(id);
		if (isJsonObject(error)) waiting.reject(new QmpError(String(error['class']), String(error['desc'])));
		else waiting.resolve(message['return']);
	};

	let greeted: Waiting<void> | undefined;
	const onMessage = (message: JsonMessage) => {
		if (state.ended) return;
		if ('error' in message) return bad(message.error);
		const { value } = message;
		if (!isJsonObject(value)) return bad('no object');
		if (!state.greeting) {
			const greeting = value['QMP'];
			if (!isJsonObject(greeting)) return bad('no greeting');
			state.greeting = greeting;
			return greeted?.resolve();
		}
		if ('return' in value || 'error' in value) return answered(value);
		const event = eventOf(value);
		if (!event) return bad(`members ${Object.keys(value).join(', ')}`);
		for (const listener of [...state.events]) listener(event);
	};

	const execute = (name: string, args: JsonObject = {}): Promise<unknown> =>
		new Promise((resolve, reject) => {
			if (state.ended) {
				const why = `${name}: expected an open connection, got: ${state.ended.message}`;
				reject(new QmpConnectionError('closed', why, { cause: state.ended }));
				return;
			}
			const id = nextId++;
			state.commands.set(id, { name, resolve, reject });
			port.write(asciiBytes(`${jsonText({ execute: name, arguments: args, id })}\r\n`));
		});

	const onEvent = (listener: (event: QmpEvent) => void) => {
		state.events.add(listener);
		return () => {
			state.events.delete(listener);
		};
	};

	const waitFor = (name: string, accept: (data: JsonObject) => boolean = () => true) =>
		new Promise<QmpEvent>((resolve, reject) => {
			if (state.ended) return reject(state.ended);
			const stop = onEvent((event) => {
				if (event.event !== name || !accept(event.data)) return;
				stop();
				state.ends.delete(reject);
				resolve(event);
			});
			state.ends.add(reject);
		});

	const closed = new Promise<void>((resolve) => state.ends.add(() => resolve()));
	// An answer may be large (certificates, lists); it comes from the program we chose to talk to.
	const stream = createJsonStream(onMessage, { maxBytes: 1 << 26, maxTokens: 1 << 21 });
	await new Promise<void>((resolve, reject) => {
		greeted = { resolve, reject };
		state.ends.add(reject);
		port.listen({
			data: (data) => stream.receive(data),
			end: (error) =>
				end(new QmpConnectionError('closed', error?.message ?? 'the server closed the connection', { cause: error })),
		});
	});
	await execute('qmp_capabilities').catch((error: unknown) => {
		end(new QmpConnectionError('protocol', 'QMP server: expected to agree on capabilities', { cause: error }));
		throw error;
	});
	return {
		greeting: state.greeting ?? {},
		// The schema types what the server is expected to answer; it is not checked again here.
		execute: (name, ...[args]) => execute(name, args as JsonValue as JsonObject) as Promise<never>,
		onEvent,
		waitFor,
		close: () => end(new QmpConnectionError('closed', 'closed by this client')),
		closed,
	};
}
