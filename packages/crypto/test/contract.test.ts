import { describe, expect, it } from 'vitest';
import { nobleProvider } from '../src/index.js';
import { nodeProvider } from '../src/node/index.js';
import { describeCryptoProvider } from '../src/testing.js';

describeCryptoProvider('noble', nobleProvider, { describe, expect, it });
describeCryptoProvider('node', nodeProvider, { describe, expect, it });
