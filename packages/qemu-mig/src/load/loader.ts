import { ReturnMessage } from '../abi/return-path.js';
import { COMMAND_RULES, Command, SectionType } from '../abi/stream.js';
import type { StreamErrorCode, StreamFault } from '../error.js';
import { isStreamError, StreamError } from '../error.js';
import type { Place, SectionInfo, StreamHandler } from '../events.js';
import { encodeReturnMessage, encodeReturnWord } from '../handover/return-path.js';
import type { TargetInput, TargetReply, TargetState } from '../handover/target.js';
import { stepTarget } from '../handover/target.js';
import { StreamReader } from '../read/reader.js';
import { checkConfiguration } from './configuration-check.js';
import type { Loader, LoaderOptions, LoadOutcome, LoadPart, LoadProgress } from './options.js';
import { LOAD_PARTS } from './options.js';
import { describe, RamLoader } from './ram.js';

/**
 * Receives a migration: reads the stream, checks it against the local machine, puts pages and devices in place and, when
 * all is there, makes the guest run. Feed it from a transport with `push` and `end`; its work happens inside those
 * calls, so reading no further is back-pressure enough.
 */
export const createLoader = (options: LoaderOptions): Loader => new StreamLoader(options);

const REPLIES: Record<TargetReply, () => Uint8Array> = {
	ack: () => encodeReturnMessage(ReturnMessage.switchoverAck, new Uint8Array(0)),
	'shut-success': () => encodeReturnWord(ReturnMessage.shut, 0),
	'shut-failure': () => encodeReturnWord(ReturnMessage.shut, 1),
};

class StreamLoader implements Loader {
	readonly outcome: Promise<LoadOutcome>;
	readonly #options: LoaderOptions;
	readonly #reader: StreamReader;
	readonly #ram: RamLoader;
	readonly #handover: boolean;
	readonly #parts = new Map<LoadPart, number>();
	readonly #devices: string[] = [];
	readonly #warnings: string[] = [];
	#state: TargetState = 'loading';
	#returnPathOpen = false;
	#eof = false;
	#settle: (outcome: LoadOutcome) => void = () => {};

	constructor(options: LoaderOptions) {
		this.#options = options;
		this.#handover = options.handover ?? false;
		this.#ram = new RamLoader(options.sink);
		this.outcome = new Promise((resolve) => {
			this.#settle = resolve;
		});
		this.#reader = new StreamReader({
			dialect: options.dialect,
			handler: this.#handler(),
			...(options.deviceLength === undefined ? {} : { deviceLength: options.deviceLength }),
			...(options.limits === undefined ? {} : { limits: options.limits }),
		});
	}

	get progress(): LoadProgress {
		return {
			parts: this.#parts,
			bytes: this.#reader.offset,
			plainPages: this.#ram.plainPages,
			zeroPages: this.#ram.zeroPages,
			privatePages: this.#ram.privatePages,
			devices: this.#devices,
			warnings: this.#warnings,
		};
	}

	push(chunk: Uint8Array): void {
		this.#guard(() => this.#reader.push(chunk));
	}

	end(): void {
		this.#guard(() => {
			this.#reader.end();
			// EOF was read, or the line above would have thrown: a missing description is only worth a warning.
			if (this.#state === 'loading') this.#withoutDescription();
			if (this.#state === 'awaiting-commit') {
				throw this.#fault('incomplete', 'hand-over: expected the commit command, got the end of the stream');
			}
		});
	}

	#guard(work: () => void): void {
		try {
			work();
		} catch (error) {
			const fault = isStreamError(error)
				? error
				: this.#fault('device', `host: expected its callbacks to succeed, got ${describe(error)}`, error);
			this.#fail(fault);
			throw fault;
		}
	}

	#handler(): StreamHandler {
		const ram = this.#ram;
		return {
			header: (_version, at) => this.#arrived('header', at),
			configuration: (configuration, at) => {
				const { machineType, uuid } = this.#options;
				const local = { machineType, handover: this.#handover, ...(uuid === undefined ? {} : { uuid }) };
				this.#warnings.push(...checkConfiguration(configuration, local, at));
				this.#arrived('configuration', at);
			},
			blockList: (blocks, _total, at) => {
				ram.blockList(blocks, at);
				this.#arrived('block-list', at);
			},
			rawPage: (block, address, page, at) => ram.rawPage(block, address, page, at),
			zeroPage: (block, address, fill, at) => ram.zeroPage(block, address, fill, at),
			encryptedPage: (block, address, header, payload, at, prefix) =>
				ram.encryptedPage(block, address, header, payload, at, prefix),
			sharedRegions: (block, address, regions, _terminator, at) => {
				ram.sharedRegions(block, address, regions, at);
				this.#arrived('shared-regions', at);
			},
			endOfRecords: (_address, at) => ram.flush(at),
			opaqueBody: (section, body, at) => this.#device(section, body, at),
			sectionEnd: (section, at) => {
				if (section.idstr === 'ram' && section.type === SectionType.end) this.#arrived('ram-end', at);
				if (section.idstr !== 'ram') this.#arrived('devices', at);
			},
			command: (command, data, at) => this.#command(command, data, at),
			eof: (at) => {
				this.#eof = true;
				this.#arrived('eof', at);
				if (this.#options.vmDescription === false && !this.#handover) this.#loaded();
			},
			vmDescription: (_json, at) => {
				this.#arrived('description', at);
				if (this.#state === 'loading') this.#loaded();
			},
			trailing: () => {
				if (this.#state === 'loading') this.#withoutDescription();
			},
		};
	}

	#device(section: SectionInfo, body: Uint8Array, at: Place): void {
		const { idstr, instanceId } = section;
		let answer: 'loaded' | 'unknown';
		try {
			answer = this.#options.device(section, body);
		} catch (cause) {
			const message = `device '${idstr}': expected its state to load, got ${describe(cause)}`;
			throw new StreamError({ code: 'device', message, cause }, at);
		}
		if (answer === 'unknown') {
			const message = `device: expected a local one, got '${idstr}' instance ${instanceId}`;
			const qemu =
				`Unknown savevm section or instance '${idstr}' ${instanceId}. Make sure that your current VM setup ` +
				'matches your saved VM setup, including any hotplugged devices';
			throw new StreamError({ code: 'section', message, qemu: [qemu] }, { ...placeOf(at), inBody: false });
		}
		this.#devices.push(`${idstr}/${instanceId}`);
	}

	/** QEMU 7.2 migration/savevm.c `loadvm_process_command`. */
	#command(command: number, data: Uint8Array, at: Place): void {
		const rule = COMMAND_RULES.get(command);
		if (rule === undefined || (command === Command.handoverCommit && !this.#handover)) {
			const qemu = `MIG_CMD 0x${command.toString(16)} unknown (len 0x${data.length.toString(16)})`;
			throw commandFault(at, `command: expected a known one, got 0x${command.toString(16)}`, [qemu]);
		}
		if (rule.length !== -1 && rule.length !== data.length) {
			const qemu = `${rule.name} received with bad length - expecting ${rule.length}, got ${data.length}`;
			const message = `${rule.name}: expected ${rule.length} bytes, got ${data.length}`;
			throw commandFault(at, message, [qemu], 'Numerical result out of range');
		}
		switch (command) {
			case Command.openReturnPath:
				this.#openReturnPath(at);
				break;
			case Command.ping:
				this.#ping(new DataView(data.buffer, data.byteOffset, 4).getUint32(0), at);
				break;
			case Command.handoverCommit:
				if (this.#state !== 'awaiting-commit') {
					throw commandFault(at, `HANDOVER_COMMIT: expected it after the acknowledgement, got it ${this.#state}`);
				}
				this.#step('commit');
				this.#finish();
				break;
			default:
				throw new StreamError(
					{ code: 'unsupported', message: `command: expected none of postcopy or COLO, got ${rule.name}` },
					at,
				);
		}
	}

	#openReturnPath(at: Place): void {
		if (this.#options.reply === undefined) {
			const message = 'OPEN_RETURN_PATH: expected a transport with a reverse direction, got none';
			throw commandFault(at, message, ['CMD_OPEN_RETURN_PATH failed'], 'Operation not permitted');
		}
		if (this.#returnPathOpen) this.#warnings.push('CMD_OPEN_RETURN_PATH called when RP already open');
		this.#returnPathOpen = true;
	}

	#ping(value: number, at: Place): void {
		if (!this.#returnPathOpen) {
			const qemu = `CMD_PING (0x${value.toString(16)}) received with no return path`;
			throw commandFault(at, 'PING: expected an open return path, got none', [qemu], 'Operation not permitted');
		}
		this.#reply(encodeReturnWord(ReturnMessage.pong, value));
	}

	#withoutDescription(): void {
		if (!this.#eof) return;
		this.#warnings.push('Expected vmdescription section');
		this.#loaded();
	}

	#loaded(): void {
		const missing = this.#missing();
		if (this.#handover && !this.#returnPathOpen) {
			throw this.#fault('incomplete', 'hand-over: expected OPEN_RETURN_PATH in the stream, got none');
		}
		if (this.#handover && missing.length > 0) {
			throw this.#fault('incomplete', `hand-over: expected every part, got a stream without ${missing.join(', ')}`);
		}
		this.#step('loaded');
		if (!this.#handover) this.#finish();
	}

	/** Parts that a complete stream of this kind holds and that did not arrive. */
	#missing(): LoadPart[] {
		return LOAD_PARTS.filter(
			(part) =>
				!this.#parts.has(part) &&
				!(part === 'shared-regions' && this.#ram.privatePages === 0) &&
				!(part === 'description' && this.#options.vmDescription === false),
		);
	}

	/** Runs detached: every way it can end is caught here. */
	async #finish(): Promise<void> {
		const missing = this.#missing();
		try {
			await this.#options.finish(this.progress);
		} catch (cause) {
			this.#fail(this.#fault('finish', `host: expected the guest to start, got ${describe(cause)}`, cause));
			return;
		}
		this.#step('finished');
		this.#settle({ status: 'running', complete: missing.length === 0, missing });
	}

	#step(input: TargetInput): void {
		const { state, reply } = stepTarget(this.#handover, this.#state, input);
		this.#state = state;
		if (reply !== undefined && this.#returnPathOpen) this.#reply(REPLIES[reply]());
	}

	/** The reverse direction is small and rare; its failure shows as the end of the forward one. */
	#reply(message: Uint8Array): void {
		const failed = (cause: unknown): void => {
			this.#warnings.push(`return path: ${describe(cause)}`);
		};
		try {
			this.#options.reply?.write(message)?.catch(failed);
		} catch (cause) {
			failed(cause);
		}
	}

	/** A guest that is starting or runs stays: what arrives afterwards cannot undo it. */
	#fail(error: StreamError): void {
		if (this.#state === 'running' || (this.#state === 'finishing' && error.code !== 'finish')) return;
		this.#step('failed');
		this.#settle({ status: 'failed', error });
	}

	#arrived(part: LoadPart, at: Place): void {
		this.#parts.set(part, at.offset);
		this.#options.arrived?.(part, this.progress);
	}

	#fault(code: StreamErrorCode, message: string, cause?: unknown): StreamError {
		const fault: StreamFault = cause === undefined ? { code, message } : { code, message, cause };
		return new StreamError(fault, { offset: this.#reader.offset, section: undefined, inBody: false });
	}
}

const placeOf = ({ offset, section, inBody }: Place): Place => ({ offset, section, inBody });

const commandFault = (
	at: Place,
	message: string,
	qemu: readonly string[] = [],
	strerror: StreamFault['strerror'] = 'Invalid argument',
): StreamError => new StreamError({ code: 'command', message, qemu, strerror }, at);
