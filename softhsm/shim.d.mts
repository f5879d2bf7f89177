/** The compiled shim in `directory`, made there if need be; undefined on a machine without a C compiler (`cc`). Its environment: the head of `p11shim.c`. */
export function compileShim(directory: string): string | undefined
