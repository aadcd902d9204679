import type { Strerror } from '../error.js';

/** How bad a finding is. */
export type Severity =
	/** A target refuses it, or the guest would be wrong. */
	| 'error'
	/** A target takes it, but it is not as a source writes it, or may go wrong there. */
	| 'warning'
	| 'info';

/** What {@link verifyStream} checks beyond syntax. Findings about syntax have the rule `stream/…`, `codec/…` or `input/…`. */
export const VERIFY_RULES = {
	'config/machine': ['error', 'the configuration names a machine type'],
	'config/capability': ['warning', 'capabilities in the configuration are known ones'],
	'config/target': ['error', 'the configuration is that of the target'],
	'ram/none': ['warning', 'there is a ram section'],
	'ram/page-missing': ['error', 'every page of every block is sent at least once'],
	'ram/page-discarded': ['error', 'every page that postcopy discards is sent again'],
	'ram/end': ['error', 'ram ends with an END section'],
	'ram/after-end': ['warning', 'no ram section follows END'],
	'ram/listed-again': ['warning', 'blocks are listed once'],
	'ram/length': ['error', 'blocks are whole pages'],
	'ram/target': ['error', 'blocks are those of the target'],
	'ram/fill': ['warning', 'ZERO records have the fill byte 0'],
	'ram/delta-base': ['error', 'XBZRLE deltas are for pages sent before'],
	'ram/delta-empty': ['warning', 'XBZRLE deltas change something'],
	'order/device-before-ram': ['warning', 'devices come after RAM, outside postcopy'],
	// QEMU itself writes `isa-ide` 0 twice for machine isapc; a target loads both into the first.
	'device/duplicate': ['warning', 'each device comes once'],
	'section/id': ['warning', 'section ids are not used twice'],
	'description/none': ['warning', 'a description follows EOF, outside postcopy'],
	'description/syntax': ['warning', 'the description can be parsed'],
	'description/page-size': ['warning', 'the description is for pages of 4096 bytes'],
	'description/absent': ['warning', 'every device is described'],
	'description/extra': ['warning', 'only devices of the stream are described'],
	'description/body': ['error', 'bodies are as described'],
	'status/none': ['error', 'encrypted pages come with the list of shared ones'],
	'status/range': ['error', 'shared ranges are not empty'],
	'status/outside': ['error', 'shared ranges lie within RAM'],
	'status/order': ['info', 'shared ranges are sorted'],
	'status/terminator': ['warning', 'the list of shared ranges ends with 2'],
	'status/contradiction': ['warning', 'pages in shared ranges are not encrypted'],
	'sealed/header': ['warning', 'headers of encrypted pages have 52 bytes'],
	'helper/message': ['error', 'messages of in-guest helpers come with a hand-over, in a dialect that has such helpers'],
	'postcopy/cut': ['info', 'connections of postcopy do not break'],
	'postcopy/run': ['warning', 'LISTEN is followed by RUN'],
	'multifd/channel': ['error', 'channels are numbered from 0 without gaps'],
	'multifd/uuid': ['error', 'channels carry the UUID of the configuration'],
	'multifd/sync': ['error', 'every channel has a SYNC for each barrier of the main stream'],
	'multifd/packets': ['warning', 'packet numbers go up from 0 without gaps'],
	'multifd/device-state': ['info', 'device state on channels is not looked into'],
	'tail/trailing': ['info', 'nothing follows the stream'],
} as const satisfies Record<string, readonly [Severity, string]>;

/** A rule of {@link VERIFY_RULES}. */
export type VerifyRule = keyof typeof VERIFY_RULES;

/** Something that is not as it should be. */
export interface Finding {
	/** A {@link VerifyRule}, or `stream/`, `codec/` or `input/` with the code of the error that ended reading. */
	readonly rule: string;
	readonly severity: Severity;
	/** Offset in the input, where it has one place. */
	readonly offset?: number;
	/** Number of the input; absent: the main stream. */
	readonly input?: number;
	/** `idstr` of the section. */
	readonly section?: string;
	/** One line. */
	readonly text: string;
	/** What QEMU 7.2 prints for it, in order, where it prints anything of its own. */
	readonly qemu?: readonly string[];
	/** X of QEMU's last line, `load of migration failed: X`; only where it refuses the stream. */
	readonly strerror?: Strerror;
}
