// Builds the demo page into one file, dist/index.html: the gateway embeds it and serves it without a file system.

import { defineConfig } from 'vite'

/** Puts the bundled script and style into the page itself. */
function singleFile() {
  return {
    name: 'single-file',
    enforce: 'post',
    generateBundle(_, bundle) {
      const page = bundle['index.html']
      for (const [name, { type, code, source }] of Object.entries(bundle)) {
        const isScript = type === 'chunk'
        if (!isScript && !name.endsWith('.css')) continue
        const text = isScript ? code.replaceAll('</script', '<\\/script') : source
        const tag = isScript ? /<script[^>]*src="[^"]*"[^>]*><\/script>/ : /<link[^>]*rel="stylesheet"[^>]*>/
        const open = isScript ? '<script type="module">' : '<style>'
        page.source = page.source.replace(tag, () => `${open}${text}${isScript ? '</script>' : '</style>'}`)
        delete bundle[name]
      }
    },
  }
}

export default defineConfig({
  root: 'demo',
  base: './',
  build: { outDir: '../dist', emptyOutDir: true, modulePreload: false, chunkSizeWarningLimit: 1024 },
  server: {
    proxy: {
      '/socket.io': { target: 'http://localhost:3000', ws: true },
      '/demo': { target: 'http://localhost:3000' },
    },
  },
  plugins: [singleFile()],
})
