import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { createHostMemory } from './host-memory.js';

const MIB = 2 ** 20;
const memoryOf = (bytes: number) => {
	const dram = new Uint8Array(new SharedArrayBuffer(bytes));
	return { dram, memory: createHostMemory(dram) };
};

describe('host memory', () => {
	it('hands out nothing below 1 MiB', () => {
		const { memory } = memoryOf(2 * MIB);
		expect(memory.freeBytes).toBe(MIB);
		expect(memory.mmap(MIB).spa).toBe(MIB);
		expect(() => memory.mmap(1)).toThrowError(expect.objectContaining({ name: 'KvmError', code: 'out-of-memory' }));
	});

	it('shows the DRAM itself, not a copy', () => {
		const { dram, memory } = memoryOf(2 * MIB);
		const { bytes, spa } = memory.mmap(PAGE_SIZE);
		bytes[5] = 0x5a;
		expect(dram[spa + 5]).toBe(0x5a);
		expect(bytes.buffer).toBe(dram.buffer);
	});

	it('rounds a length up to whole pages', () => {
		const { memory } = memoryOf(2 * MIB);
		expect(memory.mmap(PAGE_SIZE + 1).bytes.length).toBe(2 * PAGE_SIZE);
		expect(memory.freeBytes).toBe(MIB - 2 * PAGE_SIZE);
	});

	it.each([0, -1, 1.5, Number.NaN])('refuses to map %s bytes', (length) => {
		expect(() => memoryOf(2 * MIB).memory.mmap(length)).toThrowError(expect.objectContaining({ code: 'bad-length' }));
	});

	it('gives zeroed pages the second time, too', () => {
		const { memory } = memoryOf(2 * MIB);
		const first = memory.mmap(MIB);
		first.bytes.fill(0xee);
		memory.munmap(first);
		const second = memory.mmap(MIB);
		expect(second.spa).toBe(first.spa);
		expect(second.bytes.every((b) => b === 0)).toBe(true);
	});

	it('refuses to unmap what is not mapped', () => {
		const { memory } = memoryOf(2 * MIB);
		const mapping = memory.mmap(PAGE_SIZE);
		expect(() => memory.munmap({ ...mapping })).toThrowError(expect.objectContaining({ code: 'not-mapped' }));
		memory.munmap(mapping);
		expect(() => memory.munmap(mapping)).toThrowError(expect.objectContaining({ code: 'not-mapped' }));
	});

	it('does not find a run that is free only in pieces', () => {
		const { memory } = memoryOf(MIB + 3 * PAGE_SIZE);
		const first = memory.mmap(PAGE_SIZE);
		memory.mmap(PAGE_SIZE);
		const third = memory.mmap(PAGE_SIZE);
		memory.munmap(first);
		memory.munmap(third);
		expect(memory.freeBytes).toBe(2 * PAGE_SIZE);
		expect(() => memory.mmap(2 * PAGE_SIZE)).toThrowError(expect.objectContaining({ code: 'out-of-memory' }));
		expect(memory.mmap(PAGE_SIZE).bytes.length).toBe(PAGE_SIZE);
	});
});

describe('address resolution', () => {
	it('resolves any address of a mapping, and ranges across neighbouring mappings', () => {
		const { memory } = memoryOf(2 * MIB);
		const a = memory.mmap(PAGE_SIZE);
		const b = memory.mmap(PAGE_SIZE);
		expect(memory.resolve(a.hva + 17, 1)).toBe(a.spa + 17);
		expect(b.hva - a.hva).toBe(PAGE_SIZE);
		expect(memory.resolve(a.hva + 1, 2 * PAGE_SIZE - 1)).toBe(a.spa + 1);
	});

	it('refuses a range that leaves the mapping by one byte, at either end', () => {
		const { memory } = memoryOf(2 * MIB);
		const { hva } = memory.mmap(PAGE_SIZE);
		expect(memory.resolve(hva, PAGE_SIZE)).toBeGreaterThan(0);
		expect(memory.resolve(hva, PAGE_SIZE + 1)).toBe(-1);
		expect(memory.resolve(hva - 1, 2)).toBe(-1);
		expect(memory.resolve(hva, 0)).toBe(-1);
	});

	it('does not resolve physical addresses, null, or memory that was unmapped', () => {
		const { memory } = memoryOf(2 * MIB);
		const mapping = memory.mmap(PAGE_SIZE);
		expect(memory.resolve(mapping.spa, 1)).toBe(-1);
		expect(memory.resolve(0, 1)).toBe(-1);
		memory.munmap(mapping);
		expect(memory.resolve(mapping.hva, 1)).toBe(-1);
	});

	it('does not let the VMM reach memory of the kernel', () => {
		const { memory } = memoryOf(2 * MIB);
		const kernel = memory.allocate(PAGE_SIZE);
		const user = memory.mmap(PAGE_SIZE);
		expect(memory.resolve(user.hva + (kernel.spa - user.spa), 1)).toBe(-1);
		expect(memory.locate(kernel.bytes)).toBe(-1);
		expect(memory.locate(user.bytes.subarray(8, 16))).toBe(user.spa + 8);
	});

	it('locates only views of mapped DRAM', () => {
		const { dram, memory } = memoryOf(2 * MIB);
		memory.mmap(PAGE_SIZE);
		expect(memory.locate(new Uint8Array(PAGE_SIZE))).toBe(-1);
		expect(memory.locate(dram)).toBe(-1);
	});
});

describe('pins', () => {
	it('keep unmapped frames, with their contents, until the last one goes', () => {
		const { dram, memory } = memoryOf(MIB + 2 * PAGE_SIZE);
		const mapping = memory.mmap(2 * PAGE_SIZE);
		mapping.bytes.fill(0x77);
		memory.pin(mapping.spa, 2 * PAGE_SIZE);
		memory.pin(mapping.spa, 1);
		memory.munmap(mapping);
		expect(memory.freeBytes).toBe(0);
		memory.unpin(mapping.spa, 2 * PAGE_SIZE);
		expect(memory.freeBytes).toBe(PAGE_SIZE);
		expect(dram[mapping.spa]).toBe(0x77);
		expect(memory.mmap(PAGE_SIZE).spa).toBe(mapping.spa + PAGE_SIZE);
		memory.unpin(mapping.spa, 1);
		expect(dram[mapping.spa]).toBe(0);
		expect(memory.mmap(PAGE_SIZE).spa).toBe(mapping.spa);
	});

	it('do not unmap: a frame that is still mapped stays in use after the last unpin', () => {
		const { memory } = memoryOf(MIB + PAGE_SIZE);
		const mapping = memory.mmap(PAGE_SIZE);
		mapping.bytes[0] = 1;
		memory.pin(mapping.spa, PAGE_SIZE);
		memory.unpin(mapping.spa, PAGE_SIZE);
		expect(memory.freeBytes).toBe(0);
		expect(mapping.bytes[0]).toBe(1);
		expect(memory.resolve(mapping.hva, PAGE_SIZE)).toBe(mapping.spa);
	});
});
