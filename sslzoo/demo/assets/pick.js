// A click on a photo searches for it.
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-row]');
  if (card && element.contains(card)) trigger('pick', { row: Number(card.dataset.row) });
  if (event.target.closest('.more')) trigger('more', {});
});
