// The demo page in headless Chromium. In: DEMO_URL, the page's address; CHROMIUM, where it is not /usr/bin/chromium.
// Out: build/demo.png and build/demo-phone.png at the top of the checkout, for people to look at.

import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { chromium } from 'playwright-core'

const WAIT_MS = 60_000
/** Quiet: nothing but the page under test, no profile, no calls home. */
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const build = fileURLToPath(new URL('../../build/', import.meta.url))
const run = Date.now().toString(36)

let browser

before(async () => {
  assert.ok(process.env.DEMO_URL, 'set DEMO_URL, or run: node with-gateway.mjs --demo -- node --test browser.test.js')
  mkdirSync(build, { recursive: true })
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  browser = await chromium.launch({ executablePath, headless: true, args: FLAGS })
})

after(() => browser?.close())

test('what is typed in one pane shows in the other, formatted too', async () => {
  const { page, a, b } = await open('types')
  await type(page, a, 'Meeting notes')
  await shows(b, 'Meeting notes')
  await press(page, a, 'Home')
  await page.keyboard.press('Shift+End')
  await a.getByRole('button', { name: 'Bold' }).click()
  await b.locator('.ql-editor strong', { hasText: 'Meeting notes' }).waitFor({ timeout: WAIT_MS })
  await type(page, b, ' for Monday', 'End')
  await shows(a, 'Meeting notes for Monday')
  await settled(a)
  await settled(b)
  await page.close()
})

test('both type at one place at the same time and see the same', async () => {
  const { page, a, b } = await open('same-place')
  const insert = (pane, text) => pane.locator('.ql-editor').evaluate((editor, typed) => {
    editor.focus()
    document.execCommand('insertText', false, typed)
  }, text)
  for (let i = 0; i < 20; i++) {
    await insert(a, `a${i} `)
    await insert(b, `b${i} `)
  }
  await settled(a)
  await settled(b)
  const text = await textOf(a)
  await shows(b, text)
  for (let i = 0; i < 20; i++) assert.ok(text.includes(`a${i} `) && text.includes(`b${i} `), text)
  await page.close()
})

test('each pane shows the other as a person with a cursor', async () => {
  const { page, a, b } = await open('people')
  await type(page, a, 'here')
  await shows(b, 'here')
  const name = await a.locator('.name').textContent()
  await b.locator(`.people [title="${name}"]`).waitFor({ timeout: WAIT_MS })
  await b.locator('.ql-cursor-name', { hasText: name }).waitFor({ state: 'attached', timeout: WAIT_MS })
  await page.close()
})

test('a cut connection comes back by itself and brings home what was typed meanwhile', async () => {
  const { page, a, b } = await open('cut')
  await type(page, a, 'before')
  await shows(b, 'before')
  await a.getByRole('button', { name: 'Cut connection' }).click()
  await page.waitForFunction((pane) => pane.dataset.connection !== 'joined', await a.elementHandle())
  await type(page, a, ' during', 'End')
  await type(page, b, 'and ', 'Control+Home')
  await joined(a)
  await settled(a)
  const text = await textOf(a)
  assert.equal(text.trim(), 'and before during')
  await shows(b, text)
  await page.close()
})

test('on a phone the panes stand one above the other and nothing sticks out', async () => {
  const { page, a, b } = await open('phone', { width: 390, height: 844 })
  const [first, second] = [await a.boundingBox(), await b.boundingBox()]
  assert.ok(second.y >= first.y + first.height, 'stacked')
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  assert.ok(overflow <= 0, `${overflow} px stick out`)
  await type(page, a, 'On the train')
  await shows(b, 'On the train')
  await page.screenshot({ path: `${build}demo-phone.png`, fullPage: true })
  await page.close()
})

test('the page is worth a picture', async () => {
  const { page, a, b } = await open('picture', { width: 1280, height: 720 })
  await type(page, a, 'Launch plan\n')
  await type(page, a, 'Two people edit this text through two different pods. Every keystroke is in the log before it is called saved.\n')
  await shows(b, 'called saved.')
  await selectLine(page, a, 'Launch plan')
  await a.getByRole('button', { name: 'Heading' }).click()
  await b.locator('.ql-editor h2').waitFor({ timeout: WAIT_MS })
  await press(page, b, 'Control+End')
  await b.getByRole('button', { name: 'List' }).click()
  await page.keyboard.type('Delete a pod while somebody types')
  await page.keyboard.press('Enter')
  await page.keyboard.type('Watch the pane reconnect')
  await shows(a, 'Watch the pane reconnect')
  await press(page, a, 'Control+End')
  await page.keyboard.press('Enter')
  await page.keyboard.type('Nothing is lost, nothing comes twic')
  await shows(b, 'comes twic')
  await settled(a)
  await settled(b)
  await type(page, a, 'e') // one edit at a time, for times that are not those of a burst
  await settled(a)
  await shows(b, 'twice')
  await type(page, b, '.')
  await settled(b)
  await a.locator('.ql-cursor-name').first().waitFor({ state: 'attached' })
  await page.screenshot({ path: `${build}demo.png`, animations: 'disabled' })
  await page.emulateMedia({ colorScheme: 'dark' })
  await page.screenshot({ path: `${build}demo-dark.png`, animations: 'disabled' })
  await page.close()
})

async function open(name, viewport = { width: 1280, height: 800 }) {
  const page = await browser.newPage({ viewport, deviceScaleFactor: 1 })
  const errors = []
  page.on('pageerror', (error) => errors.push(error.message))
  page.on('request', (request) => {
    const isOwn = request.url().startsWith(new URL(process.env.DEMO_URL).origin) || /^(data|ws|blob):/.test(request.url())
    if (!isOwn) errors.push(`asks elsewhere: ${request.url()}`)
  })
  page.on('close', () => assert.deepEqual(errors, []))
  await page.goto(`${process.env.DEMO_URL.replace(/#.*/, '')}#demo-${run}-${name}`)
  const [a, b] = ['A', 'B'].map((label) => page.locator(`[data-pane=${label}]`))
  await spread(page)
  await joined(a)
  await joined(b)
  return { page, a, b }
}

/** Pane B has found another pod, or there is none. */
async function spread(page) {
  await page.waitForFunction(() => ['good', 'plain'].includes(document.querySelector('#link').dataset.kind), null, { timeout: 30_000 })
}

async function joined(pane) {
  await pane.page().waitForFunction((view) => view.dataset.connection === 'joined', await pane.elementHandle(), { timeout: WAIT_MS })
  await pane.locator('.ql-editor[contenteditable=true]').waitFor({ timeout: WAIT_MS })
}

async function press(page, pane, key) {
  await pane.locator('.ql-editor').focus()
  await page.keyboard.press(key)
}

async function type(page, pane, text, key = 'Control+End') {
  await press(page, pane, key)
  await page.keyboard.type(text)
}

async function selectLine(page, pane, text) {
  await pane.locator('.ql-editor').getByText(text).first().click()
  await page.keyboard.press('Home')
  await page.keyboard.press('Shift+End')
}

async function shows(pane, text) {
  const wanted = [await pane.elementHandle(), text.trim()]
  await pane.page().waitForFunction(([view, t]) => view.querySelector('.ql-editor').innerText.includes(t), wanted, { timeout: WAIT_MS })
}

async function textOf(pane) {
  return (await pane.locator('.ql-editor').innerText()).replaceAll('\u00a0', ' ')
}

/** Nothing is being edited or on its way. */
async function settled(pane) {
  const wait = (view) => ['editing', 'sent', 'inLog'].every((stage) => view.querySelector(`[data-stage=${stage}] b`).textContent === '0')
  await pane.page().waitForFunction(wait, await pane.elementHandle(), { timeout: WAIT_MS })
}
