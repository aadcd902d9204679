import type { ArgumentsOf, Members, Sendable } from './argument-types.js';
import { flag, int64, listOf, oneOf, optional, struct, text, uint64 } from './argument-types.js';
import type { JsonObject } from './json-value.js';
import type { MigrationInfo, MigrationParameters, SevCapability, SevInfo, StatusInfo, VersionInfo } from './results.js';

/** One command: its arguments, what it answers and whether it may run out of band. */
export interface Command<M extends Members = Members, R = unknown> {
	readonly arguments: M;
	readonly oob: boolean;
	/** Carries `R` for inference only; never present. */
	readonly _result?: R;
}

/** Commands by name. Extend the served ones with your own: `{ ...qmpSchema, 'x-mine': command({ n: uint8 }) }`. */
export type QmpSchema = { readonly [name: string]: Command };

/** Marks what a command answers; commands without one answer `{}`. */
export interface Answer<R> {
	readonly oob?: boolean;
	readonly _result?: R;
}
/** `answers<T>()` gives a command the result type `T`. `oob` lets clients run it out of band. */
export const answers = <R>(options: { oob?: boolean } = {}): Answer<R> => options;

/** Declares a command. */
export const command = <const M extends Members, R = void>(members: M, answer: Answer<R> = {}): Command<M, R> => ({
	arguments: members,
	oob: answer.oob ?? false,
});

/** Migration capabilities in the order in which `query-migrate-capabilities` lists them (qemu 7.2). */
export const MIGRATION_CAPABILITIES = [
	'xbzrle',
	'rdma-pin-all',
	'auto-converge',
	'zero-blocks',
	'compress',
	'events',
	'postcopy-ram',
	'x-colo',
	'release-ram',
	'block',
	'return-path',
	'pause-before-switchover',
	'multifd',
	'dirty-bitmaps',
	'postcopy-blocktime',
	'late-block-activate',
	'x-ignore-shared',
	'validate-uuid',
	'background-snapshot',
	'zero-copy-send',
	'postcopy-preempt',
] as const;
/** The name of a migration capability. */
export type MigrationCapability = (typeof MIGRATION_CAPABILITIES)[number];
/** One migration capability and whether it is on. */
export type MigrationCapabilityStatus = { readonly capability: MigrationCapability; readonly state: boolean };

/**
 * The commands served here: names, argument types and answers, after qemu 7.2 `qapi/*.json`. The `sev-…` parameters of
 * `migrate-set-parameters` are those of the SEV migration series, which upstream never merged.
 */
export const qmpSchema = {
	qmp_capabilities: command({ enable: optional(listOf(oneOf(['oob']))) }),
	'query-version': command({}, answers<VersionInfo>()),
	'query-commands': command({}, answers<readonly { readonly name: string }[]>()),
	'query-status': command({}, answers<StatusInfo>()),
	'query-name': command({}, answers<{ readonly name?: string }>()),
	'query-uuid': command({}, answers<{ readonly UUID: string }>()),
	'query-migrate': command({}, answers<MigrationInfo>()),
	'query-migrate-parameters': command({}, answers<MigrationParameters>()),
	'query-migrate-capabilities': command({}, answers<readonly MigrationCapabilityStatus[]>()),
	migrate: command({
		uri: text,
		blk: optional(flag),
		inc: optional(flag),
		detach: optional(flag),
		resume: optional(flag),
	}),
	migrate_cancel: command({}),
	'migrate-incoming': command({ uri: text }),
	/** QEMU v2 patch 9/12 of confidential guest-assisted live migration, never merged: lets the mirror vCPUs run. */
	'start-migration-handler': command({}),
	/** Patch 10/12: the same as `migrate-incoming`, of a VM that runs. */
	'start-migrate-incoming': command({ uri: text }),
	'migrate-set-parameters': command({
		'max-bandwidth': optional(uint64),
		'downtime-limit': optional(uint64),
		'sev-pdh': optional(text),
		'sev-plat-cert': optional(text),
		'sev-amd-cert': optional(text),
	}),
	'migrate-set-capabilities': command({
		capabilities: listOf(struct({ capability: oneOf(MIGRATION_CAPABILITIES), state: flag })),
	}),
	'query-sev': command({}, answers<SevInfo>()),
	'query-sev-capabilities': command({}, answers<SevCapability>()),
	'query-sev-launch-measure': command({}, answers<{ readonly data: string }>()),
	'sev-inject-launch-secret': command({ 'packet-header': text, secret: text, gpa: optional(uint64) }),
	stop: command({}),
	cont: command({}),
	quit: command({}),
	pmemsave: command({ val: int64, size: int64, filename: text }),
};

/** Commands that a server answers by itself. */
export type BuiltInCommand = 'qmp_capabilities' | 'query-version' | 'query-commands';

/** The checked arguments that a handler of a command gets. */
export type CommandArguments<C> = C extends Command<infer M, unknown> ? ArgumentsOf<M> : never;
/** What a command answers. */
export type CommandResult<C> = C extends Command<Members, infer R> ? R : never;
/** What a client may pass. */
export type CommandInput<C> = Sendable<CommandArguments<C>>;

/** What a handler gets besides its arguments. */
export interface HandlerContext {
	/** Sends an event, before the answer of this command. */
	emit(event: string, data?: JsonObject): void;
}

/** One function per command of a schema, with arguments and answer typed by it. Throw a `QmpError` to answer an error. */
export type QmpHandlers<S extends QmpSchema> = {
	[K in Exclude<keyof S, BuiltInCommand>]: (
		args: CommandArguments<S[K]>,
		context: HandlerContext,
	) => CommandResult<S[K]> | Promise<CommandResult<S[K]>>;
};
