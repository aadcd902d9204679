// Two hardened helpers of @cvm/ovmf-mh alone, without guests or hosts: one page moves, and then only one copy may run. node session.mjs
import { systemRandom } from '@cvm/crypto';
import { nodeProvider as provider } from '@cvm/crypto/node';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID, SECRET_AREA } from '@cvm/ovmf-mh';
import { HelperCommand, helperReport } from '@cvm/ovmf-mh/host';
import { createHelperCore, phaseName } from '@cvm/ovmf-mh/session';
import { secretTable } from '@cvm/sev-hw/owner';

const BYTES = 16 << 20;
const PAGE = 0x300000;
const random = systemRandom();
// What the guest's owner gives to both machines by LAUNCH_SECRET, after their measurements were verified.
const data = encodeMigrationSecret(random.bytes(16), random.bytes(32));
const secret = secretTable([{ guid: MIGRATION_SECRET_GUID, data }]);

/** A guest's private memory, and a helper over it. `role`: `idle` runs and may leave, `empty` waits for a guest. */
function machine(role) {
	const bytes = new Uint8Array(BYTES);
	bytes.set(secret, SECRET_AREA.base);
	const words = new Int32Array(bytes.buffer);
	const memory = {
		ram: [{ start: 0, end: BYTES }],
		read: (gpa, out) => out.set(bytes.subarray(gpa, gpa + out.length)),
		write: (gpa, part) => bytes.set(part, gpa),
		exchange: (gpa, value) => Atomics.exchange(words, gpa / 4, value) >>> 0,
	};
	const core = createHelperCore({ memory, provider, random, saveAreas: [] });
	core.install(role);
	/** A command of the host; long ones come in slices. */
	const run = (name, input = new Uint8Array(0), argument = 0) => {
		for (let given = input; ; given = new Uint8Array(0)) {
			const { status, output, more } = core.control(HelperCommand[name], given, argument);
			if (status !== 0) throw new Error(`${name}: status ${status}`);
			if (!more) return output;
		}
	};
	return { bytes, core, run, phase: () => phaseName(helperReport.decode(run('query')).phase) };
}

const [source, target] = [machine('idle'), machine('empty')];
source.bytes.fill(0x5a, PAGE, PAGE + 4096);
target.run('establish', source.run('confirm', target.run('accept', source.run('hello', undefined, 1))));

const [gpas, header, bodies] = [Float64Array.of(PAGE), new Uint8Array(80), new Uint8Array(4096)];
source.core.seal(0, gpas, 1, { header, bodies });
console.log('what the hosts see of the page:', new Set(bodies).size > 1 ? 'noise' : 'the page');
target.core.open(0, gpas, 1, header, bodies);

source.run('freeze'); // the guest's vCPUs rest
source.run('digest');
target.run('verify', source.run('manifest'));
target.run('digest'); // of all private memory: nothing is missing, old or another
const ready = target.run('verify');
const running = target.run('run', source.run('start', ready));
source.run('retire', running); // keys and memory are wiped
console.log('source:', source.phase(), source.bytes[PAGE], 'target:', target.phase(), target.bytes[PAGE]);
