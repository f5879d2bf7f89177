/** The nearest known name to a misspelt one, for messages that say what was probably meant. */

/** ` Did you mean prefixname?` where a known name is near; else nothing. */
export function didYouMean(name: string, known: Iterable<string>, prefix = ''): string {
  const near = closest(name, known)
  return near === undefined ? '' : ` Did you mean ${prefix}${near}?`
}

/** Answers a name at most two edits away (case aside), the nearest first; undefined when nothing is near. */
function closest(name: string, known: Iterable<string>): string | undefined {
  let best: string | undefined
  let bestEdits = 3
  for (const other of known) {
    const edits = editDistance(name.toLowerCase(), other.toLowerCase())
    if (edits < bestEdits) [best, bestEdits] = [other, edits]
  }
  return best
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const changed = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(changed, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
