import { Status } from '../abi/status.js';

/** Success, nothing to tell. */
export const OK: { readonly status: Status } = { status: Status.SUCCESS };

/** A refusal. */
export const refuse = (status: Status): { readonly status: Status } => ({ status });
