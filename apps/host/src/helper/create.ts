import type { HostContext } from '../context.js';
import type { HelperControl } from './control.js';
import { hardenedControl } from './hardened.js';
import type { MirrorVcpus } from './mirror-vcpus.js';
import { rfcControl } from './rfc.js';

/** The control of the helpers that the machine's firmware has. `context` is asked when the host stands. */
export const createHelperControl = (
	profile: HelperControl['profile'],
	context: () => HostContext,
	mirrors: MirrorVcpus,
): HelperControl => (profile === 'rfc-2021' ? rfcControl(context, mirrors) : hardenedControl(context, mirrors));
