/** The order of the test files: the long ones first, so that the last file to run is not one that all others have ended before. */
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Longest first. */
const long = [
  'crash',
  'import-crash',
  'clients',
  'replication-crash',
  'hsm-recovery',
  'fuzz',
  'bad-input',
  'hsm-import',
  'wrap-schemes',
  'recovery',
  'lifecycle',
  'model',
]
const place = ({ moduleId }: TestSpecification): number => {
  const [, name = ''] = /token\/([^/]+)\.test\.ts$/.exec(moduleId) ?? []
  const at = long.indexOf(name)
  return at < 0 ? long.length : at
}

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).sort((one, other) => place(one) - place(other))
  }
}
