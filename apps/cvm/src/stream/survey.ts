import { PAGE_SIZE } from '@cvm/layout';
import type {
	Configuration,
	DecodedCommand,
	Place,
	SectionInfo,
	StreamBlock,
	StreamEnd,
	StreamHandler,
} from '@cvm/qemu-mig';
import { COMMAND_RULES, Command, decodeCommand, inflatePage, SectionType } from '@cvm/qemu-mig';
import { bitsOfEntropy } from './entropy.js';
import { HelperRecords, messageText } from './helper-records.js';
import { KIND, PageTable } from './pages.js';

/** Bodies that are kept until the description comes, in bytes. */
const BODIES = 64 * 2 ** 20;
/** Steps of the time line that are kept. */
const STEPS = 10_000;

/** A device section. `body` is absent if there was no room to keep it. */
export interface DeviceFound {
	readonly section: SectionInfo;
	/** Of the body in the stream. */
	readonly offset: number;
	readonly length: number;
	readonly body?: Uint8Array;
}

/** A stretch of the stream. `to` is where it ends. */
export interface Step {
	readonly what: 'header' | 'configuration' | 'ram' | 'devices' | 'command' | 'eof' | 'description' | 'trailing';
	readonly from: number;
	to: number;
	text: string;
	/** Sections in it. */
	sections: number;
	/** Rounds of which it holds records: first and last, from 1. */
	readonly rounds?: [number, number];
	readonly packaged: boolean;
}

/** Options of {@link Survey}. */
export interface SurveyOptions {
	readonly entropy?: boolean;
}

/** Takes down what a stream holds, while it is read. */
export class Survey {
	readonly pages: PageTable;
	readonly helper = new HelperRecords();
	readonly devices: DeviceFound[] = [];
	readonly steps: Step[] = [];
	configuration: { readonly value: Configuration; readonly offset: number } | undefined;
	blocks: readonly StreamBlock[] | undefined;
	description: { readonly json: Uint8Array; readonly offset: number } | undefined;
	end: StreamEnd | undefined;
	eof = false;
	postcopy = false;
	/** Steps that were not kept. */
	left = 0;
	readonly #entropy: boolean;
	readonly #scratch = new Uint8Array(PAGE_SIZE);
	#bodies = 0;

	constructor({ entropy = false }: SurveyOptions = {}) {
		this.#entropy = entropy;
		this.pages = new PageTable(entropy);
	}

	handler(): StreamHandler {
		const { pages } = this;
		return {
			header: (version, at) => this.#step('header', at, `QEVM, version ${version}`),
			configuration: (value, at) => {
				this.configuration = { value, offset: at.offset };
				this.#step('configuration', at, value.machineType);
			},
			sectionBegin: (section, at) => {
				// A source looks for dirty pages once more before its last section.
				if (section.idstr === 'ram' && section.type === SectionType.end) pages.endRound();
				this.#beginSection(section, at);
			},
			blockList: (blocks) => this.#list(blocks),
			mappedListEnd: (blocks) => this.#list(blocks),
			rawPage: (block, address, page, at) => {
				pages.note(block, address, KIND.raw, at.offset);
				if (this.#entropy) pages.entropy(block, address, bitsOfEntropy(page));
			},
			zeroPage: (block, address, _fill, at) => {
				pages.note(block, address, KIND.zero, at.offset);
				if (this.#entropy) pages.entropy(block, address, 0);
			},
			encodedPage: (kind, block, address, data, at) => {
				pages.note(block, address, kind === 'zlib' ? KIND.zlib : KIND.xbzrle, at.offset);
				if (this.#entropy && kind === 'zlib') this.#inflated(block, address, data);
			},
			encryptedPage: (block, address, _header, payload, at) => {
				pages.note(block, address, KIND.encrypted, at.offset);
				if (this.#entropy) pages.entropy(block, address, bitsOfEntropy(payload));
			},
			migrationHelperPage: (block, address, header, page, at) => {
				this.helper.page(header);
				pages.note(block, address, KIND.helper, at.offset);
				if (this.#entropy) pages.entropy(block, address, bitsOfEntropy(page));
			},
			mappedPage: (block, address, page, present, at) => {
				pages.note(block, address, present ? KIND.raw : KIND.absent, at.offset);
				if (this.#entropy) pages.entropy(block, address, present ? bitsOfEntropy(page) : 0);
			},
			opaqueBody: (section, body, at) => this.#device(section, body, at),
			sectionEnd: (section, at) => this.#endSection(section, at),
			command: (command, data, at) => this.#command(command, data, at),
			ramDiscard: () => pages.endRound(),
			eof: (at) => {
				this.eof ||= !at.packaged;
				this.#step('eof', at, at.packaged ? 'end of package' : 'end of the elements');
			},
			vmDescription: (json, at) => {
				this.description = { json: json.slice(), offset: at.offset };
				this.#step('description', at, `${json.length} bytes of JSON`);
			},
			trailing: (data, at) => {
				const last = this.steps.at(-1);
				if (last?.what === 'trailing') last.to = at.offset + data.length;
				else this.#step('trailing', at, 'bytes that QEMU ignores');
			},
		};
	}

	get withEntropy(): boolean {
		return this.#entropy;
	}

	/** For a channel of postcopy's urgent pages; `noted` is told of each. */
	asideHandler(noted: () => void): StreamHandler {
		return {
			rawPage: (block, address, page) => {
				this.pages.noteAside(block, address, KIND.raw);
				this.pageAside(block, address, page);
				noted();
			},
			zeroPage: (block, address) => {
				this.pages.noteAside(block, address, KIND.zero);
				noted();
			},
			encodedPage: (_kind, block, address) => {
				this.pages.noteAside(block, address, KIND.zlib);
				noted();
			},
		};
	}

	/** Contents of a page of another channel, which was noted. */
	pageAside(block: string, address: number, page: Uint8Array): void {
		if (this.#entropy) this.pages.entropy(block, address, bitsOfEntropy(page));
	}

	#list(blocks: readonly StreamBlock[]): void {
		this.blocks = blocks;
		this.pages.list(blocks);
	}

	#inflated(block: string, address: number, data: Uint8Array): void {
		try {
			inflatePage(data, this.#scratch);
			this.pages.entropy(block, address, bitsOfEntropy(this.#scratch));
		} catch {
			// `verify` reports it.
		}
	}

	#step(what: Step['what'], at: Place, text: string): void {
		const { offset, length, packaged } = at;
		this.#add({ what, from: offset, to: offset + length, text, sections: 0, packaged });
	}

	#add(step: Step): void {
		if (this.steps.length < STEPS) this.steps.push(step);
		else this.left++;
	}

	/** Sections of one kind in a row are one step; so long as they are, only its end moves. */
	#beginSection(section: SectionInfo, at: Place): void {
		const ram = section.idstr === 'ram';
		const what = ram ? 'ram' : 'devices';
		const text = ram ? SECTION_NAMES[section.type] : '';
		const last = this.steps.at(-1);
		if (last?.what === what && last.text === text && last.packaged === at.packaged) return;
		const round = this.pages.rounds.length;
		const rounds = ram ? { rounds: [round, round] as [number, number] } : {};
		this.#add({ what, from: at.offset, to: at.offset, text, sections: 0, packaged: at.packaged, ...rounds });
	}

	#endSection(section: SectionInfo, at: Place): void {
		const last = this.steps.at(-1);
		if (last?.what !== (section.idstr === 'ram' ? 'ram' : 'devices')) return;
		last.to = at.offset + at.length;
		last.sections++;
		if (last.rounds) last.rounds[1] = this.pages.rounds.length;
	}

	#device(section: SectionInfo, body: Uint8Array, at: Place): void {
		this.#bodies += body.length;
		const kept = this.#bodies <= BODIES && this.devices.length < STEPS;
		if (this.devices.length >= STEPS) this.left++;
		else {
			this.devices.push({ section, offset: at.offset, length: body.length, ...(kept && { body: body.slice() }) });
		}
	}

	#command(command: number, data: Uint8Array, at: Place): void {
		const decoded = decodeCommand(command, data);
		const name = COMMAND_RULES.get(command)?.name ?? `command 0x${command.toString(16)}`;
		if (name === 'POSTCOPY_LISTEN') this.postcopy = true;
		if (command === Command.helperMessage) this.helper.message();
		const detail = decoded === undefined ? `${data.length} bytes` : detailOf(decoded);
		this.#step('command', at, detail === '' ? name : `${name} ${detail}`);
	}
}

const SECTION_NAMES: Readonly<Record<SectionInfo['type'], string>> = {
	[SectionType.start]: 'START',
	[SectionType.part]: 'PART',
	[SectionType.end]: 'END',
	[SectionType.full]: 'FULL',
};

/** What a command carries, in a few words. */
function detailOf(decoded: DecodedCommand): string {
	if ('value' in decoded) return `${decoded.value}`;
	if ('message' in decoded) return messageText(decoded.message);
	if ('length' in decoded) return `${decoded.length} bytes`;
	if ('ranges' in decoded) return `${decoded.block}, ${decoded.ranges.length} ranges`;
	if ('block' in decoded) return decoded.block;
	return '';
}
