// Before anything is drawn: light or dark, if the user chose one. Otherwise the system decides.
try {
  const theme = localStorage.getItem("fungible.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; then nothing was chosen.
}
