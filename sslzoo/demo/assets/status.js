element.addEventListener('click', (event) => {
  if (event.target.closest('.stop')) trigger('stop', {});
});
