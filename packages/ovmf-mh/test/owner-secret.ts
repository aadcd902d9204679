import { seededRandom } from '@cvm/crypto';
import { secretTable } from '@cvm/sev-hw/owner';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '../src/session/index.js';

/** The secret area of a guest that may migrate, as LAUNCH_SECRET leaves it: equal names, equal bytes. */
export function secretPage(o: {
	readonly owner?: string;
	readonly guest?: string;
	readonly minVersion?: number;
}): Uint8Array {
	const { owner = 'owner', guest = 'guest', minVersion = 1 } = o;
	const [guestId, secret] = [seededRandom(`guest ${guest}`).bytes(16), seededRandom(`owner ${owner}`).bytes(32)];
	return secretTable([{ guid: MIGRATION_SECRET_GUID, data: encodeMigrationSecret(guestId, secret, minVersion) }]);
}
