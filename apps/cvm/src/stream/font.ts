/** Rows of a character above the line it stands on. */
export const GLYPH_ROWS = 7;
/** Pixels of a row; the left one is the highest bit. */
export const GLYPH_COLUMNS = 5;

/** A digit to the base of 32 for each row of each character from space to tilde. Nine rows reach below the line. */
const GLYPHS = [
	'0000000 4444404 aaa0000 aavavaa 4fke5u4 op248j3 cik8lid c480000 2488842 8422248 04lel40 044v440',
	'0000c48 000v000 00000cc 01248g0 ehjlphe 4c4444e eh168gv u11e11u 26aiv22 vgu11he 68guhhe v124888',
	'ehhehhe ehhf12c 0cc0cc0 0cc0c48 248g842 00v0v00 8421248 eh12404 eh1dlle ehhvhhh uhhuhhu ehggghe',
	'sihhhis vgguggv vgguggg ehgnhhf hhhvhhh e44444e 72222ic hikokih ggggggv hrllhhh hhpljhh ehhhhhe',
	'uhhuggg ehhhlid uhhukih fgge11u v444444 hhhhhhe hhhhha4 hhhllla hha4ahh hhha444 v1248gv e88888e',
	'0g84210 e22222e 4ah0000 000000v 8420000 00e1fhf ggmphhu 00egghe 11djhhf 00ehvge 698s888 00fhhhf1e',
	'ggmphhh 40c444e 2062222ic ggikoki c44444e 00qllhh 00mphhh 00ehhhe 00uhhhugg 00fhhhf11 00mpggg 00ege1u',
	'88s8896 00hhhjd 00hhha4 00hhlla 00ha4ah 00hhhhf1e 00v248v 2448442 4444444 8442448 008l200',
];
const glyphs = GLYPHS.join(' ').split(' ');

/** The rows of a character; a box for what has none. */
export const glyphOf = (character: string): number[] =>
	Array.from(glyphs[character.charCodeAt(0) - 0x20] ?? 'vhhhhhv', (digit) => Number.parseInt(digit, 32));
