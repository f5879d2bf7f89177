import type { Bench } from './run.ts'
export const renderReport = (run: Bench): string => JSON.stringify(run)
