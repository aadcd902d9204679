import { Command } from '../abi/stream.js';
import { decodeCommand } from '../command.js';
import { DIALECTS } from '../dialect.js';
import type { StreamFault } from '../error.js';
import type { StreamHandler } from '../events.js';
import { badDiscard, CommandChecker } from './command-check.js';
import type { Parse, StreamCursor } from './cursor.js';
import type { ReaderOptions } from './options.js';
import { PostcopyState } from './options.js';
import type { RamReader } from './ram.js';

/** Reads commands, and keeps what they change for what follows: the package, the form of the block list, postcopy. */
export class CommandReader {
	readonly #cursor: StreamCursor;
	readonly #ram: RamReader;
	readonly #handler: StreamHandler;
	readonly #checker: CommandChecker | undefined;
	/** As far as the commands say, whether checked or not. */
	postcopy: PostcopyState;

	constructor(cursor: StreamCursor, ram: RamReader, options: ReaderOptions) {
		this.#cursor = cursor;
		this.#ram = ram;
		this.#handler = options.handler;
		this.postcopy = options.resume?.postcopy ?? PostcopyState.none;
		if (options.check !== 'target') return;
		// A recovery opens its return path without a command.
		this.#checker = new CommandChecker(DIALECTS[options.dialect], options.stream === 'recovery', this.postcopy);
		ram.postcopy = this.postcopy >= PostcopyState.listening || (options.stream ?? 'migration') !== 'migration';
	}

	announceHandover(handover: boolean): void {
		if (this.#checker !== undefined) this.#checker.handover = handover;
	}

	/** A command after its type byte. */
	*read(): Parse {
		const cursor = this.#cursor;
		const command = yield* cursor.takeU16();
		const length = yield* cursor.takeU16();
		this.#refuse(this.#checker?.header(command, length));
		const data = yield* cursor.take(length);
		this.#refuse(this.#checker?.data(command, data));
		if (command === Command.packaged) this.#checkPackage(data);
		if (command === Command.postcopyRamDiscard) this.#refuse(badDiscard(data));
		const decoded = decodeCommand(command, data);
		this.#handler.command?.(command, data, cursor.place);
		if (decoded === undefined) return;
		switch (decoded.command) {
			case Command.postcopyAdvise:
				this.postcopy = PostcopyState.advise;
				this.#ram.listForm.pageSizes = decoded.pageSizes;
				break;
			case Command.postcopyRamDiscard:
				this.postcopy = PostcopyState.discard;
				this.#handler.ramDiscard?.(decoded.block, decoded.ranges, cursor.place);
				break;
			case Command.postcopyListen:
				this.postcopy = PostcopyState.listening;
				this.#ram.postcopy = this.#checker !== undefined;
				break;
			case Command.postcopyRun:
				this.postcopy = PostcopyState.running;
				break;
			case Command.packaged:
				this.#enterPackage(decoded.length);
				break;
			default:
		}
	}

	/** Without its length a package has no end; one inside another is nothing a source writes. */
	#checkPackage(data: Uint8Array): void {
		if (data.length !== 4) {
			this.#refuse({
				code: 'command',
				message: `PACKAGED: expected 4 bytes, got ${data.length}`,
				qemu: [`PACKAGED received with bad length - expecting 4, got ${data.length}`],
				strerror: 'Numerical result out of range',
			});
		}
		if (this.#cursor.package === undefined) return;
		this.#refuse({ code: 'command', message: 'PACKAGED: expected no package inside a package, got one' });
	}

	#enterPackage(length: number): void {
		const cursor = this.#cursor;
		const begin = cursor.window.offset;
		cursor.package = { begin, end: begin + length };
		cursor.mark();
		cursor.place.packaged = true;
		this.#handler.packageBegin?.(length, cursor.place);
	}

	/** To be called after every element: ends the package whose last one it was. */
	leavePackage(): void {
		const cursor = this.#cursor;
		if (cursor.package === undefined || cursor.window.offset < cursor.package.end) return;
		const { begin, end } = cursor.package;
		if (cursor.window.offset > end) {
			cursor.package = undefined;
			throw cursor.fail({
				code: 'command',
				message: `PACKAGED: expected its last element to end with its ${end - begin} bytes, got one that goes on`,
				strerror: 'Input/output error',
			});
		}
		cursor.package = undefined;
		cursor.mark();
		this.#handler.packageEnd?.(cursor.place);
		cursor.place.packaged = false;
	}

	#refuse(fault: StreamFault | undefined): void {
		if (fault !== undefined) throw this.#cursor.fail(fault);
	}
}
