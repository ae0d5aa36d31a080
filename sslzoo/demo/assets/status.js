element.addEventListener('click', (event) => {
  const button = event.target.closest('.stop');
  if (button) trigger('stop', { name: button.dataset.name });
});
