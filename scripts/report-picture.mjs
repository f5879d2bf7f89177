/**
 * The picture of the bench's report in docs: `node scripts/report-picture.mjs bench-report/report.html docs/bench-report.png`. Needs the packages for
 * development, and Chromium.
 */
import { resolve } from 'node:path'
import { argv } from 'node:process'
import { pathToFileURL } from 'node:url'
import { chromium } from 'playwright-core'
import { findProgram, Missing, orSayWhatIsMissing } from './machine.mjs'

await orSayWhatIsMissing(async () => {
  const [, , report, picture] = argv
  const executablePath = findProgram('chromium')
  if (!report || !picture) throw new Missing('Say which report, and where the picture is to go.')
  if (!executablePath) throw new Missing('Chromium is not installed: apt-get install chromium')
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
  const page = await browser.newPage({ viewport: { width: 960, height: 1560 }, colorScheme: 'light' })
  await page.goto(pathToFileURL(resolve(report)).href)
  await page.screenshot({ path: picture })
  await browser.close()
})
