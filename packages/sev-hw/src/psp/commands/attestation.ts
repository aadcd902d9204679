import type { Infer } from '@cvm/layout';
import { ATTESTATION_SIGNED_SIZE, attestationReport } from '../../abi/attestation.js';
import { ATTESTATION_SIZE, type attestationBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { toLittleEndian } from '../../certificates/byte-order.js';
import { CertAlgo, CertUsage } from '../../certificates/sev-certificate.js';
import type { GuestHandler } from '../platform.js';
import { refuse } from '../reply.js';
import { requireIdentity } from './platform.js';

/** SEV API 0.24 ATTESTATION: a report of the launch, with the caller's nonce, signed by the PEK. */
export const attestation: GuestHandler<Infer<typeof attestationBuffer>> = {
	run: (psp, { launchDigest, policy }, { paddr, mnonce, length }) => {
		const out = { length: ATTESTATION_SIZE };
		if (length < ATTESTATION_SIZE) return { status: Status.INVALID_LENGTH, out };
		const at = psp.memory.resolveLong(paddr, ATTESTATION_SIZE);
		if (at < 0) return refuse(Status.INVALID_ADDRESS);
		const report = attestationReport.encode({
			mnonce,
			launchDigest,
			policy,
			sigUsage: CertUsage.PEK,
			sigAlgo: CertAlgo.ECDSA_SHA256,
		});
		const { privateKey } = requireIdentity(psp).pek;
		const { r, s } = psp.provider.p384.sign(privateKey, report.subarray(0, ATTESTATION_SIGNED_SIZE), 'sha256');
		attestationReport.patch(report, { sigR: toLittleEndian(r, 72), sigS: toLittleEndian(s, 72) });
		psp.memory.dram.set(report, at);
		return { status: Status.SUCCESS, out };
	},
};
