import { spa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { COMMANDS, type CommandName, type CommandRule } from '../src/abi/commands.js';
import { GuestState, PlatformState } from '../src/abi/states.js';
import { Status } from '../src/abi/status.js';
import {
	certificatesOf,
	createRig,
	guestIn,
	initialised,
	type Rig,
	receiveStartFields,
	sendStartFields,
} from './rig.js';

const NAMES = Object.keys(COMMANDS) as CommandName[];
const rule = (name: CommandName): CommandRule => COMMANDS[name];
const platformNames = Object.keys(PlatformState) as (keyof typeof PlatformState)[];
const guestNames = Object.keys(GuestState) as (keyof typeof GuestState)[];

function rigIn(state: PlatformState): Rig {
	if (state === PlatformState.UNINIT) return createRig();
	const rig = initialised();
	if (state === PlatformState.WORKING) rig.must('LAUNCH_START', {});
	return rig;
}

/** Fields that pass every check which the firmware makes before it looks at the guest's state. */
function fieldsFor(rig: Rig, name: CommandName, handle: number) {
	const packet = {
		hdrPaddr: 0x200000n,
		hdrLen: 52,
		guestPaddr: 0x210000n,
		guestLen: 16,
		transPaddr: 0x220000n,
		transLen: 16,
	};
	switch (name) {
		case 'SEND_START':
			return rig.platform.state === PlatformState.UNINIT
				? { handle, sessionLen: 128 }
				: sendStartFields(rig, handle, certificatesOf(rig));
		case 'LAUNCH_SECRET':
		case 'SEND_UPDATE_DATA':
		case 'RECEIVE_UPDATE_DATA':
			return { handle, ...packet };
		case 'LAUNCH_UPDATE_DATA':
			return { handle, paddr: 0x210000n, length: 16 };
		case 'LAUNCH_MEASURE':
			return { handle, paddr: 0x200000n, length: 48 };
		case 'DBG_DECRYPT':
		case 'DBG_ENCRYPT':
			return { handle, srcPaddr: 0x200000n, dstPaddr: 0x210000n, length: 16 };
		case 'ACTIVATE':
			return { handle, asid: 200 };
		case 'GET_ID':
			return { idPaddr: 0x200000n, idLen: 64 };
		case 'PDH_CERT_EXPORT':
			return { pdhPaddr: 0x200000n, pdhLen: 2084, certsPaddr: 0x210000n, certsLen: 6252 };
		case 'RECEIVE_START':
			return rig.platform.state === PlatformState.UNINIT ? { sessionLen: 128 } : receiveStartFields(rig, 0);
		case 'DECOMMISSION':
		case 'DEACTIVATE':
		case 'LAUNCH_FINISH':
		case 'SEND_FINISH':
		case 'SEND_CANCEL':
		case 'RECEIVE_FINISH':
		case 'GUEST_STATUS':
			return { handle };
		default:
			return {};
	}
}

describe.each(NAMES)('%s', (name) => {
	const { platform, kind } = rule(name);

	it.each(platformNames)("keeps the table's rule for the platform state %s", (stateName) => {
		const state = PlatformState[stateName];
		const rig = rigIn(state);
		const fields = fieldsFor(rig, name, 1);
		const before = rig.snapshot();
		const { status } = rig.command(name, fields);
		expect(status === 'INVALID_PLATFORM_STATE').toBe(!platform.includes(state));
		if (status === 'INVALID_PLATFORM_STATE') expect(rig.snapshot()).toEqual(before);
		else if (kind !== 'guest')
			expect(status).toBe(name === 'DF_FLUSH' && stateName === 'UNINIT' ? 'WBINVD_REQUIRED' : 'SUCCESS');
	});
});

const guestCommands = NAMES.filter((name) => rule(name).kind === 'guest');

describe.each(guestCommands)('%s', (name) => {
	const found = rule(name);
	const allowed: readonly GuestState[] = found.kind === 'guest' ? found.guest : [];
	const next = found.kind === 'guest' ? found.next : undefined;

	it.each(guestNames)("keeps the table's rule for the guest state %s", (stateName) => {
		const state = GuestState[stateName];
		const rig = initialised();
		const { handle } = guestIn(rig, state === GuestState.UNINIT ? GuestState.LUPDATE : state);
		const target = state === GuestState.UNINIT ? handle + 1 : handle;
		// Unbound for the commands that want it so; bound for all others.
		if (name === 'ACTIVATE' || name === 'DECOMMISSION') rig.must('DEACTIVATE', { handle });
		const fields = fieldsFor(rig, name, target);
		const before = rig.snapshot();
		const { status } = rig.command(name, fields);
		if (state === GuestState.UNINIT) expect(status).toBe('INVALID_GUEST');
		else expect(status === 'INVALID_GUEST_STATE').toBe(!allowed.includes(state));
		if (status === 'INVALID_GUEST' || status === 'INVALID_GUEST_STATE') {
			expect(rig.snapshot()).toEqual(before);
		}
		if (status === 'SUCCESS') {
			const { state: after } = rig.command('GUEST_STATUS', { handle: target }).out;
			if (next === undefined) expect(after).toBe(state);
			else if (name !== 'DECOMMISSION') expect(after).toBe(next);
			else expect(rig.command('PLATFORM_STATUS').out.state).toBe(PlatformState.INIT);
		}
	});
});

describe('ids that no command has', () => {
	const known: readonly number[] = NAMES.map((name) => rule(name).id);
	it('are answered with INVALID_COMMAND, whatever the address', () => {
		const rig = rigIn(PlatformState.WORKING);
		const before = rig.snapshot();
		for (let id = 0; id <= 0x0ff; id++) {
			if (!known.includes(id)) expect(rig.machine.psp.submit(id, spa(0xa0000))).toBe(Status.INVALID_COMMAND);
		}
		expect(rig.machine.psp.submit(0x10041, spa(0))).toBe(Status.INVALID_COMMAND);
		expect(rig.snapshot()).toEqual(before);
	});
});
