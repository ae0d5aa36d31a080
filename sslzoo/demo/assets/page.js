// A picture dropped or pasted anywhere on the page goes to the search, as if it had been chosen there.
() => {
  const tell = (sentence) => {
    document.querySelector('.told')?.remove();
    const told = Object.assign(document.createElement('div'), { className: 'told', role: 'alert', textContent: sentence });
    document.body.append(told);
    setTimeout(() => told.remove(), 8000);
  };
  // browsers know no type of some pictures; the server then says whether it can read them
  const isImage = (file) => file.type.startsWith('image/') || (!file.type && /\.(hei[cf]|avifs?|jp2|qoi|dds|tga)$/i.test(file.name));
  const give = (files) => {
    const image = [...files].find(isImage);
    const input = document.querySelector('#picker input[type=file]');
    if (!input) return false;
    if (!image) {
      tell(files.length ? `${files[0].name} is no picture; drop a JPEG, PNG or the like.` : 'That is no picture; drop a JPEG, PNG or the like.');
      return false;
    }
    const transfer = new DataTransfer();
    transfer.items.add(image.type ? image : new File([image], image.name, { type: 'image/heic' }));
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
    if (event.clipboardData.files.length && give(event.clipboardData.files)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);
};
