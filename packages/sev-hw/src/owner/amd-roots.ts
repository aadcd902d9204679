import { fromHex } from '@cvm/layout';
import type { ArkPin } from '../certificates/amd-certificate.js';

const pin = (keyId: string, bodySha256: string): Required<ArkPin> => ({
	keyId: fromHex(keyId),
	bodySha256: fromHex(bodySha256),
});

/**
 * AMD's root keys by product: enough to recognise a real ARK certificate, which the user supplies. Key ids as in the
 * certificates; hashes are SHA-256 of the certificates' signed bytes (virtee/sev `src/certs/sev/builtin`).
 */
export const AMD_ROOTS = {
	naples: pin('1bb987c359494606b174945601c9ea5b', '8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31'),
	rome: pin('e6002122fb58419399d15fee7b131351', 'ae2456af6c6ad234badd6c75e58915be61568286766083853bf668e6e23977c3'),
	milan: pin('94c38e4177d0479292a7ae671d083fb6', '263b13fd3170c6ffbb0b4f01f09848dc08a8dc1e9637d47e42cbe6c135e4af12'),
	genoa: pin('9f9d4a8fe761456599f6946c4c010f3a', '973df6265e1b40cf8883305c1f6a6cd254979446acb40bd396946b2f19e751e9'),
	turin: pin('d05c3a8bde484904b49552422ceb3942', '89327696f8082b20f5a588565adc26d478e1c6d56153c1de656e63396b8f8e20'),
} as const;
