// Light and dark: the system's choice until somebody presses the button. In: the button. Out: `data-theme` on the page.

export function startTheme(button) {
  const dark = matchMedia('(prefers-color-scheme: dark)')
  button.addEventListener('click', () => {
    const { dataset } = document.documentElement
    const now = dataset.theme ?? (dark.matches ? 'dark' : 'light')
    dataset.theme = now === 'dark' ? 'light' : 'dark'
  })
}
