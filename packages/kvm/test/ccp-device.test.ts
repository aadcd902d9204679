import { COMMANDS, PlatformState, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { SEV_ISSUE_CMD, SevUserCommand, sevIssueCmd, type UserMemory } from '../src/ccp/index.js';
import { AT, DONE, INVALID, MEMORY_END, O_RDONLY, O_RDWR, O_WRONLY, REFUSED, rig } from './ccp-rig.js';

describe('the ioctl', () => {
	it('is the number that the header makes', () => {
		const size = sevIssueCmd.size;
		expect(SEV_ISSUE_CMD).toBe(((3 << 30) | (size << 16) | ('S'.charCodeAt(0) << 8)) >>> 0);
	});

	it('refuses any other request before it looks at the argument', async () => {
		const { device, user } = rig();
		expect(await device.open(O_RDWR).ioctl(SEV_ISSUE_CMD + 1, AT.nowhere, user.memory)).toBe(-22);
	});

	it('takes a request that was sign-extended on its way', async () => {
		const { device, user } = rig();
		expect(await device.open(O_RDWR).ioctl(SEV_ISSUE_CMD | 0, AT.nowhere, user.memory)).toBe(-14);
	});

	it('faults on an argument that cannot be read', async () => {
		const { device, user } = rig();
		const almost = MEMORY_END - 15n;
		expect(await device.open(O_RDWR).ioctl(SEV_ISSUE_CMD, almost, user.memory)).toBe(-14);
	});

	it.each([9, 10, 0xffff_ffff])('does not know command %i and leaves `error` alone', async (cmd) => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(cmd)).toEqual(INVALID);
		expect(ran).toEqual([]);
	});

	it('does not write the structure of an unknown command back', async () => {
		const { issue, user } = rig();
		user.protect(AT.command);
		expect((await issue(9)).ret).toBe(-22);
	});

	it('writes the structure back whatever happened, which may fault', async () => {
		const { issue, user } = rig();
		user.protect(AT.command);
		expect((await issue(SevUserCommand.PDH_GEN, { flags: O_RDONLY })).ret).toBe(-14);
		expect((await issue(SevUserCommand.PLATFORM_STATUS)).ret).toBe(-14);
	});

	it('takes WRONLY for writable', async () => {
		const { issue } = rig();
		expect(await issue(SevUserCommand.PDH_GEN, { flags: O_WRONLY })).toEqual(DONE);
	});

	it('lets one command end before the next begins', async () => {
		const { device, user } = rig();
		const order: string[] = [];
		const slow: UserMemory = {
			read: user.memory.read,
			write: async (address, data) => {
				order.push(`slow ${address === AT.command ? 'ends' : 'writes'}`);
				await new Promise((done) => setTimeout(done, 5));
				return user.memory.write(address, data);
			},
		};
		const quick: UserMemory = {
			read: user.memory.read,
			write: async (address, data) => {
				order.push('quick');
				return user.memory.write(address, data);
			},
		};
		user.put(AT.command, sevIssueCmd.encode({ cmd: SevUserCommand.PLATFORM_STATUS, data: AT.data }));
		const file = device.open(O_RDONLY);
		await Promise.all([
			file.ioctl(SEV_ISSUE_CMD, AT.command, slow),
			device.open(O_RDONLY).ioctl(SEV_ISSUE_CMD, AT.command, quick),
		]);
		expect(order).toEqual(['slow writes', 'slow ends', 'quick', 'quick']);
	});

	it('serves the next caller after one that broke off', async () => {
		const { device, user, issue } = rig();
		const gone: UserMemory = { read: user.memory.read, write: () => Promise.reject(new Error('gone')) };
		user.put(AT.command, sevIssueCmd.encode({ cmd: SevUserCommand.PLATFORM_STATUS, data: AT.data }));
		await expect(device.open(O_RDONLY).ioctl(SEV_ISSUE_CMD, AT.command, gone)).rejects.toThrow('gone');
		expect(await issue(SevUserCommand.PLATFORM_STATUS)).toEqual(DONE);
	});
});

describe('loading the driver', () => {
	it('initialises the platform for SEV-ES and flushes', async () => {
		const { ran, state } = rig();
		expect(ran).toEqual([COMMANDS.INIT.id, COMMANDS.DF_FLUSH.id]);
		expect(await state()).toEqual({
			apiMajor: 0,
			apiMinor: 24,
			state: PlatformState.INIT,
			flags: 0x100,
			build: 15,
			guestCount: 0,
		});
	});

	it('leaves it down when the module parameter says so', async () => {
		const { ran, state } = rig({ initOnProbe: false });
		expect(ran).toEqual([]);
		expect((await state()).state).toBe(PlatformState.UNINIT);
	});

	it('tries INIT once more when the firmware lost its data', () => {
		const { ran } = rig({ answers: { [COMMANDS.INIT.id]: Status.SECURE_DATA_INVALID } });
		expect(ran).toEqual([COMMANDS.INIT.id, COMMANDS.INIT.id]);
	});

	it('does not try again after another failure', () => {
		const { ran } = rig({ answers: { [COMMANDS.INIT.id]: Status.HWERROR_PLATFORM } });
		expect(ran).toEqual([COMMANDS.INIT.id]);
	});
});

describe('PLATFORM_STATUS', () => {
	it('needs no write access and does not initialise', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(SevUserCommand.PLATFORM_STATUS, { flags: O_RDONLY })).toEqual(DONE);
		expect(ran).toEqual([]);
	});

	it('faults after the firmware answered', async () => {
		const { issue } = rig();
		expect(await issue(SevUserCommand.PLATFORM_STATUS, { data: 0n })).toEqual({ ret: -14, error: 0 });
	});

	it('hands the firmware’s refusal on', async () => {
		const { issue } = rig({ answers: { [COMMANDS.PLATFORM_STATUS.id]: Status.HWERROR_UNSAFE } });
		expect(await issue(SevUserCommand.PLATFORM_STATUS)).toEqual({ ret: -5, error: Status.HWERROR_UNSAFE });
	});
});

describe('FACTORY_RESET', () => {
	it('wants write access', async () => {
		const { issue, ran } = rig();
		ran.length = 0;
		expect(await issue(SevUserCommand.FACTORY_RESET, { flags: O_RDONLY })).toEqual(REFUSED);
		expect(ran).toEqual([]);
	});

	it('shuts an initialised platform down first', async () => {
		const { issue, ran } = rig();
		ran.length = 0;
		await issue(SevUserCommand.FACTORY_RESET);
		expect(ran).toEqual([COMMANDS.SHUTDOWN.id, COMMANDS.PLATFORM_RESET.id]);
	});

	it('goes straight to the reset when the platform is down', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		await issue(SevUserCommand.FACTORY_RESET);
		expect(ran).toEqual([COMMANDS.PLATFORM_RESET.id]);
	});

	it('is busy while a guest exists, and says that the firmware was asked', async () => {
		const { issue, ran } = rig({
			initOnProbe: false,
			status: { apiMinor: 24, state: PlatformState.WORKING, guestCount: 1 },
		});
		expect(await issue(SevUserCommand.FACTORY_RESET)).toEqual({ ret: -16, error: 0 });
		expect(ran).toEqual([]);
	});

	it('stops where the firmware refuses', async () => {
		const { issue, ran } = rig({ answers: { [COMMANDS.SHUTDOWN.id]: Status.HWERROR_UNSAFE } });
		ran.length = 0;
		expect(await issue(SevUserCommand.FACTORY_RESET)).toEqual({ ret: -5, error: Status.HWERROR_UNSAFE });
		expect(ran).toEqual([COMMANDS.SHUTDOWN.id]);
	});
});

describe.each([
	['PEK_GEN', SevUserCommand.PEK_GEN, COMMANDS.PEK_GEN.id],
	['PDH_GEN', SevUserCommand.PDH_GEN, COMMANDS.PDH_GEN.id],
])('%s', (_, cmd, id) => {
	it('wants write access', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		expect(await issue(cmd, { flags: O_RDONLY })).toEqual(REFUSED);
		expect(ran).toEqual([]);
	});

	it('ignores its data pointer', async () => {
		const { issue } = rig({ answers: { [id]: Status.SUCCESS } });
		expect(await issue(cmd, { data: AT.nowhere })).toEqual(DONE);
	});

	it('initialises a platform that is down', async () => {
		const { issue, ran } = rig({ initOnProbe: false });
		await issue(cmd);
		expect(ran).toEqual([COMMANDS.INIT.id, COMMANDS.DF_FLUSH.id, id]);
	});

	it('hands INIT’s refusal on', async () => {
		const { issue, ran } = rig({ initOnProbe: false, answers: { [COMMANDS.INIT.id]: Status.HWERROR_PLATFORM } });
		expect(await issue(cmd)).toEqual({ ret: -5, error: Status.HWERROR_PLATFORM });
		expect(ran).toEqual([COMMANDS.INIT.id]);
	});

	it('hands DF_FLUSH’s refusal on', async () => {
		const { issue } = rig({ initOnProbe: false, answers: { [COMMANDS.DF_FLUSH.id]: Status.WBINVD_REQUIRED } });
		expect(await issue(cmd)).toEqual({ ret: -5, error: Status.WBINVD_REQUIRED });
	});

	it('hands its own refusal on', async () => {
		const { issue } = rig({ answers: { [id]: Status.INVALID_PLATFORM_STATE } });
		expect(await issue(cmd)).toEqual({ ret: -5, error: Status.INVALID_PLATFORM_STATE });
	});
});
