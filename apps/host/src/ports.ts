/** I/O ports of the machine that guest and VMM both know. */

/** First serial port (16550): its transmit register. */
export const SERIAL_PORT = 0x3f8;
/** The model's echo device: a 32-bit write names the frame of a shared page, whose bytes it replaces by their complement. */
export const ECHO_PORT = 0x600;
