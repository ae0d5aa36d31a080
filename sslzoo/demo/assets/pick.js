// A click on a photo searches for it; where its results begin above the screen, the page goes up to them.
let picked = false;
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-row]');
  if (card && element.contains(card)) {
    picked = true;
    trigger('pick', { row: Number(card.dataset.row) });
  }
  if (event.target.closest('.more')) trigger('more', {});
});
watch('value', () => {
  if (picked && element.getBoundingClientRect().top < 0) element.scrollIntoView();
  picked = false;
});
