import { describe, expect, it } from 'vitest';
import { encodeHobs, HANDLER_HOBS, readHobs } from './hob.js';
import { EfiMemoryType, e820Of, encodeMemoryMap, isFreeToOs, memoryMapOf } from './memory-map.js';
import { encodePcds, HandlerPcd, ResumePcd, readPcd } from './pcd.js';

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('the PCDs of the handler', () => {
	it('have the tokens, types and values of the posted packages', () => {
		const of = (pcds: object) => Object.values(pcds).map(({ token, type, kind, value }) => [token, type, kind, value]);
		expect(of(HandlerPcd)).toEqual([
			[0x49, 'BOOLEAN', 'dynamic', 0],
			[0x4a, 'BOOLEAN', 'dynamic', 0],
			[0x4b, 'UINT32', 'fixed', 0x820000],
			[0x4c, 'UINT32', 'fixed', 0x3000],
			[0x4d, 'UINT32', 'fixed', 0x823000],
			[0x4e, 'UINT32', 'fixed', 0x1000],
		]);
		expect(of(ResumePcd)).toEqual([
			[3, 'BOOLEAN', 'dynamic', 0],
			[4, 'UINT32', 'fixed', 0x80e000],
			[5, 'UINT32', 'fixed', 0x1000],
			[6, 'UINT32', 'fixed', 0x80b000],
			[7, 'UINT32', 'fixed', 0x3000],
			[9, 'UINT32', 'fixed', 0x80f000],
			[10, 'UINT32', 'fixed', 0x1000],
		]);
	});

	it('stand in a database by token, and have their defaults without one', () => {
		const database = encodePcds({
			PcdStartConfidentialMigrationHandler: true,
			PcdIsConfidentialMigrationTarget: false,
		});
		expect(hexOf(database)).toBe('5043444202000000' + '4900000000000000' + '4a00000001000000');
		expect(readPcd('PcdStartConfidentialMigrationHandler', database)).toBe(1);
		for (const none of [new Uint8Array(), new Uint8Array(64), database.subarray(0, 23)]) {
			expect(readPcd('PcdStartConfidentialMigrationHandler', none)).toBe(0);
			expect(readPcd('PcdConfidentialMigrationMailboxBase', none)).toBe(0x820000);
		}
	});
});

describe('the HOBs of the handler', () => {
	it('are two memory allocations of runtime data, and the end of the list', () => {
		const name = '00'.repeat(16);
		expect(hexOf(encodeHobs(HANDLER_HOBS))).toBe(
			[
				`0200300000000000${name}000082000000000000300000000000000600000000000000`,
				`0200300000000000${name}003082000000000000100000000000000600000000000000`,
				'ffff080000000000',
			].join(''),
		);
	});

	it('are read up to the first that does not fit', () => {
		const list = encodeHobs(HANDLER_HOBS);
		expect(readHobs(list.subarray(0, 60))).toEqual([{ start: 0x820000, bytes: 0x3000, type: 6 }]);
		list[2] = 7;
		expect(readHobs(list)).toEqual([]);
	});
});

describe('the memory map', () => {
	const { conventional, runtimeServicesData, reserved, bootServicesData, acpiReclaim } = EfiMemoryType;
	const ram = [{ start: 0, end: 0x10000 }];
	const part = (start: number, bytes: number, type: EfiMemoryType) => ({ name: 'x', start, bytes, type });

	it('has the types of UEFI, of which an OS may use these', () => {
		expect(EfiMemoryType).toMatchObject({
			...{ reserved: 0, bootServicesCode: 3, bootServicesData: 4, runtimeServicesCode: 5 },
			...{ runtimeServicesData: 6, conventional: 7, acpiReclaim: 9 },
		});
		expect(Array.from({ length: 11 }, (_, type) => type).filter(isFreeToOs)).toEqual([1, 2, 3, 4, 7]);
	});

	it('cuts allocations out of RAM, and joins neighbours of one type', () => {
		const map = memoryMapOf(ram, [
			part(0x4000, 0x1000, runtimeServicesData),
			part(0x5000, 0x2000, runtimeServicesData),
			part(0x20000, 0x1000, reserved),
		]);
		expect(map).toEqual([
			{ start: 0, end: 0x4000, type: conventional },
			{ start: 0x4000, end: 0x7000, type: runtimeServicesData },
			{ start: 0x7000, end: 0x10000, type: conventional },
			{ start: 0x20000, end: 0x21000, type: reserved },
		]);
	});

	it('is told as GetMemoryMap does: only runtime memory is to be mapped by SetVirtualAddressMap', () => {
		const bytes = encodeMemoryMap([
			{ start: 0x4000, end: 0x7000, type: runtimeServicesData },
			{ start: 0x7000, end: 0x8000, type: conventional },
		]);
		const [virtual, attributes] = ['0000000000000000', ['0800000000000080', '0800000000000000']];
		expect(hexOf(bytes)).toBe(
			`06000000000000000040000000000000${virtual}0300000000000000${attributes[0]}` +
				`07000000000000000070000000000000${virtual}0100000000000000${attributes[1]}`,
		);
	});

	it('is told as E820', () => {
		const map = memoryMapOf(ram, [
			part(0x1000, 0x1000, bootServicesData),
			part(0x2000, 0x1000, acpiReclaim),
			part(0x3000, 0x1000, runtimeServicesData),
		]);
		expect(e820Of(map)).toEqual([
			{ addr: 0, size: 0x2000, type: 1 },
			{ addr: 0x2000, size: 0x1000, type: 3 },
			{ addr: 0x3000, size: 0x1000, type: 2 },
			{ addr: 0x4000, size: 0xc000, type: 1 },
		]);
	});
});
