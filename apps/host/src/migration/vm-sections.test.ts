import type { SectionInfo } from '@cvm/qemu-mig';
import { expect, it } from 'vitest';
import type { HostContext } from '../context.js';
import { ArrivedSections, saveSections } from './vm-sections.js';

/** What is looked at of a host without vCPUs. */
const host = {
	machine: { vcpus: [], shared: { ranges: [{ gfnStart: 1, gfnEnd: 3 }] } },
	migrationMsr: { value: 1 },
} as unknown as HostContext;
const section = (idstr: string) => ({ idstr, instanceId: 0, version: 1 }) as SectionInfo;

it('writes what hosts of this project understand, and what the first helper series had', () => {
	const names = (model: boolean, shared: boolean) =>
		saveSections(host, 'running', model, shared).map(({ idstr }) => idstr);
	expect(names(false, false)).toEqual(['globalstate']);
	expect(names(true, false)).toEqual(['cvm/vm', 'globalstate']);
	expect(names(true, true)).toEqual(['end-of-confidential-ram', 'cvm/vm', 'cvm/shared', 'globalstate']);
	expect(names(false, true)).toEqual(['end-of-confidential-ram', 'globalstate']);
	expect(saveSections(host, 'running', true, true)[0]).toMatchObject({ version: 1, body: Uint8Array.of(1) });
});

it('takes its own sections, and no others', () => {
	const arrived = new ArrivedSections();
	for (const { idstr, body } of saveSections(host, 'running', true, true)) {
		expect(arrived.take(section(idstr), body)).toBe(true);
	}
	expect(arrived.take(section('end-of-confidential-ram'), new Uint8Array(2))).toBe(false);
	expect(arrived.take(section('timer'), new Uint8Array(24))).toBe(false);
});
