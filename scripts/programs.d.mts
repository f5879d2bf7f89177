import type { Plugin } from 'esbuild'

export const mirror: Plugin
export function importProgram(name: string): Promise<unknown>
export function buildOf(folder: string): Promise<string | undefined>
