// A picture dropped or pasted anywhere on the page goes to the search, as if it had been chosen there.
() => {
  const give = (files) => {
    const image = [...files].find((file) => file.type.startsWith('image/'));
    const input = document.querySelector('#picker input[type=file]');
    if (!image || !input) return false;
    const transfer = new DataTransfer();
    transfer.items.add(image);
    input.files = transfer.files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
    return true;
  };
  const inside = (event) => event.target.closest && event.target.closest('#picker');
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    if (inside(event)) return;
    event.preventDefault();
    give(event.dataTransfer.files);
  });
  document.addEventListener('paste', (event) => {
    if (give(event.clipboardData.files)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);
};
