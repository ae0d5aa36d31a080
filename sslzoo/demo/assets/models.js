// Filtering the cards, and asking for an embedding.
const filter = () => {
  const words = element.querySelector('.filter input[type=search]').value.toLowerCase().split(/\s+/);
  const ready = element.querySelector('.filter input[type=checkbox]').checked;
  let shown = 0;
  for (const card of element.querySelectorAll('details')) {
    card.hidden = !words.every((word) => card.dataset.words.includes(word)) || (ready && card.dataset.ready === '0');
    shown += !card.hidden;
  }
  element.querySelector('.empty').hidden = shown > 0;
};
element.addEventListener('input', filter);
watch('value', filter);
element.addEventListener('click', (event) => {
  const button = event.target.closest('.embed');
  if (button) trigger('embed', { name: button.dataset.name });
});
