import type { Bench } from './run.ts'
export const compareRuns = (a: { name: string; run: Bench }, b: { name: string; run: Bench }): string => a.name + b.name
