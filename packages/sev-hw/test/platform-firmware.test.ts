import { describe, expect, it } from 'vitest';
import { readSevCertificate } from '../src/certificates/sev-certificate.js';
import { buildFirmwareImage, FAKE_ARK_KEY, FAKE_ASK_KEY } from '../src/fake-amd/index.js';
import { FIRMWARE_SIGNATURE_SIZE, firmwareImageHeader } from '../src/psp/firmware-image.js';
import { expectRefusal, FORBIDDEN } from './refusal.js';
import { certificatesOf, createRig, provider, type Rig } from './rig.js';

const NEXT = { major: 1, minor: 55, build: 25 };
const IMAGE = buildFirmwareImage(provider, NEXT, Uint8Array.of(1, 2, 3));
const HEADER = firmwareImageHeader.size;

const download = (rig: Rig, image: Uint8Array) => ({ fwPaddr: rig.put(image), fwLen: image.length });
const flipped = (at: number) => IMAGE.map((b, i) => (i === at ? b ^ 1 : b));
/** An image with a change in its header, signed after it. */
function resigned(change: Parameters<typeof firmwareImageHeader.patch>[1], key = FAKE_ASK_KEY): Uint8Array {
	const image = IMAGE.slice();
	firmwareImageHeader.patch(image, change);
	const signed = image.subarray(0, image.length - FIRMWARE_SIGNATURE_SIZE);
	const signature = provider.rsaPss.sign(key, signed, 'sha256', provider.digest('sha256', signed));
	image.set(signature.reverse(), signed.length);
	return image;
}
/** The least body that makes an image of so many bytes. */
const sized = (bytes: number) =>
	buildFirmwareImage(provider, NEXT, new Uint8Array(bytes - HEADER - FIRMWARE_SIGNATURE_SIZE));

describe('DOWNLOAD_FIRMWARE', () => {
	/** As {@link expectRefusal}, and the firmware is the old one. */
	function refuses(rig: Rig, fields: ReturnType<typeof download>, status: string): void {
		const before = rig.must('PLATFORM_STATUS');
		expectRefusal(rig, 'DOWNLOAD_FIRMWARE', fields, status);
		expect(rig.must('PLATFORM_STATUS')).toEqual(before);
	}

	it('refuses an address that is not a multiple of 32, before it looks at the length', () => {
		const rig = createRig();
		const { fwPaddr, fwLen } = download(rig, Uint8Array.from([...new Uint8Array(16), ...IMAGE]));
		refuses(rig, { fwPaddr: fwPaddr + 16n, fwLen: IMAGE.length }, 'INVALID_ADDRESS');
		refuses(rig, { fwPaddr: fwPaddr + 16n, fwLen: 0 }, 'INVALID_ADDRESS');
		expect(fwLen).toBe(IMAGE.length + 16);
	});

	it.each([0, 1, HEADER + FIRMWARE_SIGNATURE_SIZE - 1, 0x20001, 0xffffffff])('refuses a length of %d', (fwLen) => {
		const rig = createRig();
		refuses(rig, { ...download(rig, IMAGE), fwLen }, 'INVALID_LENGTH');
	});

	it.each([
		['naples', 0x10000],
		['milan', 0x20000],
	] as const)('takes images on %s up to %d bytes', (generation, limit) => {
		const rig = createRig({ generation });
		rig.must('DOWNLOAD_FIRMWARE', download(rig, sized(limit)));
		refuses(rig, download(rig, sized(limit + 1)), 'INVALID_LENGTH');
	});

	it.each(FORBIDDEN.filter(([, address]) => address % 32n === 0n))('refuses an image %s', (_, fwPaddr) => {
		refuses(createRig(), { fwPaddr, fwLen: IMAGE.length }, 'INVALID_ADDRESS');
	});

	it.each<[string, Uint8Array, string]>([
		['of another kind', resigned({ magic: new Uint8Array(8) }), 'BAD_SIGNATURE'],
		['of another format', resigned({ format: 2 }), 'BAD_SIGNATURE'],
		['that says another length', resigned({ length: IMAGE.length - 1 }), 'INVALID_LENGTH'],
		['with a changed version', flipped(0x0d), 'BAD_SIGNATURE'],
		['with a changed reserved byte', flipped(0x1f), 'BAD_SIGNATURE'],
		['with a changed body', flipped(HEADER), 'BAD_SIGNATURE'],
		['with a changed signature', flipped(IMAGE.length - 1), 'BAD_SIGNATURE'],
		['of another signer', resigned({}, FAKE_ARK_KEY), 'BAD_SIGNATURE'],
	])('refuses an image %s', (_, image, status) => {
		const rig = createRig();
		refuses(rig, download(rig, image), status);
	});

	it('puts the version of the image into the status, and into certificates made from then on', () => {
		const rig = createRig();
		rig.must('INIT');
		const before = certificatesOf(rig);
		rig.must('SHUTDOWN');
		rig.must('DOWNLOAD_FIRMWARE', download(rig, IMAGE));
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ apiMajor: 1, apiMinor: 55, build: 25, state: 0 });
		rig.must('INIT');
		const after = certificatesOf(rig);
		expect(after.pdh).toEqual(before.pdh);
		expect(after.exported.subarray(0, 2 * 2084)).toEqual(before.exported.subarray(0, 2 * 2084));
		rig.must('PDH_GEN');
		expect(readSevCertificate(certificatesOf(rig).pdh)).toMatchObject({ apiMajor: 1, apiMinor: 55 });
		rig.must('SHUTDOWN');
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ apiMajor: 1, apiMinor: 55, build: 25 });
	});

	it('lets guests in that want the new version', () => {
		const rig = createRig();
		const policy = 0x37010000;
		rig.must('INIT');
		expectRefusal(rig, 'LAUNCH_START', { policy }, 'POLICY_FAILURE');
		rig.must('SHUTDOWN');
		rig.must('DOWNLOAD_FIRMWARE', download(rig, IMAGE));
		rig.must('INIT');
		rig.must('LAUNCH_START', { policy });
	});

	it('takes an older version', () => {
		const rig = createRig();
		const older = buildFirmwareImage(provider, { major: 0, minor: 16, build: 1 });
		rig.must('DOWNLOAD_FIRMWARE', download(rig, older));
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ apiMajor: 0, apiMinor: 16, build: 1 });
	});

	it('is gone with the machine, which starts with its own version', () => {
		const rig = createRig();
		rig.must('DOWNLOAD_FIRMWARE', download(rig, IMAGE));
		expect(createRig({ nv: rig.nv }).must('PLATFORM_STATUS')).toMatchObject({ apiMajor: 0, apiMinor: 24, build: 15 });
	});
});

describe('a firmware image', () => {
	it('is laid out as it is documented, and the same each time', () => {
		expect(new TextDecoder().decode(IMAGE.subarray(0, 8))).toBe('CVMSEVFW');
		const front = [1, 0, 0, 0, 1, 55, 25, 0, 0x23, 0x01, 0, 0];
		expect([...IMAGE.subarray(8, 20)]).toEqual(front);
		expect([...IMAGE.subarray(HEADER, HEADER + 3)]).toEqual([1, 2, 3]);
		expect(IMAGE.length).toBe(HEADER + 3 + FIRMWARE_SIGNATURE_SIZE);
		expect(buildFirmwareImage(provider, NEXT, Uint8Array.of(1, 2, 3))).toEqual(IMAGE);
	});
	it('cannot have a version that is no byte', () => {
		expect(() => buildFirmwareImage(provider, { ...NEXT, build: 256 })).toThrow('build');
	});
});
