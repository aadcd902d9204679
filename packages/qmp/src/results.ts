/** Values answered by the commands of `qmpSchema` (qemu 7.2 qapi/*.json). */

/** `query-version`, and the greeting. */
export type VersionInfo = {
	readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
	readonly package: string;
};

/** Run states that matter to migration. */
export type RunState =
	| 'prelaunch'
	| 'inmigrate'
	| 'running'
	| 'paused'
	| 'finish-migrate'
	| 'postmigrate'
	| 'shutdown'
	| 'internal-error';

/** `query-status`. */
export type StatusInfo = { readonly status: RunState; readonly running: boolean; readonly singlestep?: boolean };

/** States of a migration. */
export type MigrationStatus =
	| 'none'
	| 'setup'
	| 'cancelling'
	| 'cancelled'
	| 'active'
	| 'postcopy-active'
	| 'postcopy-paused'
	| 'postcopy-recover'
	| 'completed'
	| 'failed'
	| 'pre-switchover'
	| 'device'
	| 'wait-unplug';

/** `ram` of `query-migrate`. Bytes, pages and pages per second; `mbps` is megabits per second. */
export type MigrationRam = {
	readonly transferred: number;
	readonly remaining: number;
	readonly total: number;
	/** Pages that held one byte value only. */
	readonly duplicate: number;
	/** Always 0. */
	readonly skipped: number;
	readonly normal: number;
	readonly 'normal-bytes': number;
	readonly 'dirty-pages-rate': number;
	readonly mbps: number;
	readonly 'dirty-sync-count': number;
	readonly 'postcopy-requests': number;
	readonly 'page-size': number;
	readonly 'multifd-bytes': number;
	readonly 'pages-per-second': number;
	readonly 'precopy-bytes': number;
	readonly 'downtime-bytes': number;
	readonly 'postcopy-bytes': number;
	readonly 'dirty-sync-missed-zero-copy': number;
};

/** Where a target listens. */
export type SocketAddress =
	| {
			readonly type: 'inet';
			readonly host: string;
			readonly port: string;
			readonly ipv4?: boolean;
			readonly ipv6?: boolean;
	  }
	| { readonly type: 'unix'; readonly path: string };

/** `query-migrate`; empty when nothing happened yet. Times in milliseconds. */
export type MigrationInfo = {
	readonly status?: MigrationStatus;
	readonly ram?: MigrationRam;
	readonly 'total-time'?: number;
	readonly 'setup-time'?: number;
	/** While not completed. */
	readonly 'expected-downtime'?: number;
	/** Once completed. */
	readonly downtime?: number;
	readonly 'error-desc'?: string;
	readonly 'blocked-reasons'?: readonly string[];
	/** Target only, while it listens. */
	readonly 'socket-address'?: readonly SocketAddress[];
};

/** `query-migrate-parameters`, as far as the schema serves them. Certificates are base64. */
export type MigrationParameters = {
	/** Bytes per second. */
	readonly 'max-bandwidth': number | bigint;
	/** Milliseconds. */
	readonly 'downtime-limit': number | bigint;
	readonly 'sev-pdh'?: string;
	readonly 'sev-plat-cert'?: string;
	readonly 'sev-amd-cert'?: string;
};

/** `query-sev`. */
export type SevInfo = {
	readonly enabled: boolean;
	readonly 'api-major': number;
	readonly 'api-minor': number;
	readonly 'build-id': number;
	readonly policy: number;
	readonly state: 'uninit' | 'launch-update' | 'launch-secret' | 'running' | 'send-update' | 'receive-update';
	readonly handle: number;
};

/** `query-sev-capabilities`; byte strings are base64. */
export type SevCapability = {
	readonly pdh: string;
	readonly 'cert-chain': string;
	readonly 'cpu0-id': string;
	readonly cbitpos: number;
	readonly 'reduced-phys-bits': number;
};
