import { PAGE_SIZE } from '@cvm/layout';
import { createMailboxHost, createMailboxProcess, mailboxMemory, PublishedGeometry } from '@cvm/ovmf-mh/host';
import { skipsHelperPage } from '@cvm/qemu-mig';
import type { HostContext } from '../context.js';
import { type HelperControl, HelperUnavailable } from './control.js';
import { guestMemory } from './guest-memory.js';
import type { MirrorVcpus } from './mirror-vcpus.js';
import { awaitSetup, settingsOf } from './setup.js';

/** PROJECT: QEMU waits 100 ms for the handler, which threads of a busy machine may take to be scheduled. */
const TIMEOUT_MS = 5000;
const START_MS = 10_000;
/** Offset of `go` in the command block. */
const GO = 0x18;

/** The handler of August 2021, which moves pages as they are. */
export function rfcControl(context: () => HostContext, mirrors: MirrorVcpus): HelperControl {
	const process = createMailboxProcess();
	let mailbox: ReturnType<typeof createMailboxHost> | undefined;
	let starting: Promise<void> | undefined;
	let hasArrived = false;
	const host = () => {
		if (mirrors.dead !== undefined) throw new HelperUnavailable(`The migration helper is gone: ${mirrors.dead}`);
		if (!mailbox) throw new HelperUnavailable('The migration helper was not started (start-migration-handler)');
		return mailbox;
	};
	const begin = () => {
		const helper = host();
		mirrors.wake();
		helper.setup();
		return helper;
	};
	/** RESET; then the vCPU, which would spin till the next migration, is not scheduled. */
	const end = () => {
		host().cleanup();
		mirrors.rest();
	};
	const giveUp = () => {
		// A handler that is gone has nothing to forget.
		if (mirrors.dead === undefined) end();
	};
	const gpaOf = (block: number, page: number) => (context().machine.blocks[block]?.gpa ?? 0) + page * PAGE_SIZE;

	const start = async (): Promise<void> => {
		await awaitSetup(context());
		const memory = mailboxMemory(guestMemory(context().machine, PublishedGeometry.mailbox, 2 * PAGE_SIZE));
		// The handler begins by clearing `go`, which loses a command that came too early (K12): so it shows that it began.
		memory.store(GO, 1);
		mirrors.start();
		const deadline = performance.now() + START_MS;
		while (memory.load(GO) !== 0) {
			if (mirrors.dead !== undefined) throw new HelperUnavailable(`The migration helper is gone: ${mirrors.dead}`);
			if (performance.now() > deadline) throw new HelperUnavailable('The migration helper does not answer');
			await new Promise((resolve) => setTimeout(resolve, 1));
		}
		mailbox = createMailboxHost({
			memory,
			process,
			timeoutMs: TIMEOUT_MS,
			defects: { init: 'fixed', headerLength: 'fixed' },
		});
	};

	return {
		profile: 'rfc-2021',
		start: async () => {
			if (mailbox) {
				host();
				return;
			}
			starting ??= start().finally(() => {
				starting = undefined;
			});
			await starting;
		},
		blocker: (role) => {
			if (!context().options.insecurePlaintext) {
				return 'The migration helper rfc-2021 encrypts nothing: to move a guest by it needs -insecure-plaintext';
			}
			try {
				host();
			} catch (error) {
				return (error as Error).message;
			}
			if (role === 'target' && (hasArrived || !settingsOf(context()).target)) {
				return 'The guest here is no migration target: it runs, or ran';
			}
			return undefined;
		},
		source: () => {
			const helper = begin();
			return {
				seal: (block, pages, count, emit) => {
					for (let i = 0; i < count; i++) {
						const page = pages[i] ?? 0;
						const { header, body } = helper.save(gpaOf(block, page));
						emit(block, page, header, body);
					}
				},
				prove: async () => end(),
				failed: giveUp,
			};
		},
		omits: (gpa, blockOffset) => skipsHelperPage({ gpa, blockOffset }, 'fixed', 'asPosted'),
		target: () => {
			const helper = begin();
			return {
				open: (block, page, header, bytes) => {
					const ret = helper.load(gpaOf(block, page), header, bytes);
					if (ret !== 0)
						throw new HelperUnavailable(
							`The migration helper refused page 0x${gpaOf(block, page).toString(16)}: ${ret}`,
						);
				},
				failed: giveUp,
			};
		},
		arrived: () => {
			hasArrived = true;
			end();
		},
		abortToken: () => {
			throw new HelperUnavailable('The migration helper rfc-2021 proves nothing');
		},
		revive: () => {
			throw new HelperUnavailable('The migration helper rfc-2021 proves nothing');
		},
	};
}
