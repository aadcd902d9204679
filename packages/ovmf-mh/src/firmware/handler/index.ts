import type { CodeFragment } from '@cvm/kvm/vcpu';
import { type HandlerDefects, handlerDefects } from './defects.js';
import { DEFAULT_PLACES, entryFragment, type HandlerPlaces } from './entry.js';
import { loopFragment } from './loop.js';
import { setupFragment } from './setup.js';
import type { PageTransport } from './transport.js';

export type { Behaviour } from '../../behaviour.js';
export type { HandlerDefects } from './defects.js';
export { AS_POSTED_HANDLER, FIXED_HANDLER } from './defects.js';
export { DEFAULT_PLACES, type HandlerPlaces } from './entry.js';
export { dxeGdt, entryStub32, entryStub64 } from './entry-page.js';
export { handlerPageTables, poolHeader, UNENCRYPTED_BASE } from './page-tables.js';
export type { PageTransport } from './transport.js';

/** What a {@link rfcHandler} may differ in. */
export interface RfcHandlerOptions {
	/** As posted, but for what is given here. */
	readonly defects?: Partial<HandlerDefects>;
	/** Where its page tables and stack are: {@link DEFAULT_PLACES}. */
	readonly places?: HandlerPlaces;
	/** What becomes of pages between private and shared memory. Default: nothing. */
	readonly transport?: PageTransport;
}

/** Set-up and entry stubs alone, for a handler whose loop is at label `main`. */
export const handlerSetup = ({
	main,
	defects,
	places = DEFAULT_PLACES,
}: RfcHandlerOptions & { readonly main: string }): readonly CodeFragment[] => [
	entryFragment,
	setupFragment({ defects: handlerDefects(defects), places, main }),
];

/**
 * The migration handler that was posted in August 2021 (edk2 branch sev-mirror2-patches): it copies private pages to and from shared
 * memory in plain. The labels are described at `setupFragment`; `mh.rfc.spin` is where it waits.
 */
export const rfcHandler = (options: RfcHandlerOptions = {}): readonly CodeFragment[] => [
	...handlerSetup({ ...options, main: 'mh.rfc.main' }),
	loopFragment(handlerDefects(options.defects), options.transport),
];
