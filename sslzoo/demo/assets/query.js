// Dragging a frame over the query's picture searches by that part; a click without dragging takes the whole again.
let start = null, before = null;
const at = (event) => {
  const area = element.querySelector('.photo').getBoundingClientRect();
  const share = (value, from, length) => Math.min(1, Math.max(0, (value - from) / length));
  return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
};
const span = (end) => [
  Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1]),
];
element.addEventListener('pointerdown', (event) => {
  if (event.button || !event.target.closest('.photo')) return;
  event.preventDefault();
  start = at(event);
  const box = element.querySelector('.box');
  before = [box.className, box.getAttribute('style') || ''];
  element.querySelector('.photo').setPointerCapture(event.pointerId);
});
element.addEventListener('pointermove', (event) => {
  if (!start) return;
  const [left, top, right, bottom] = span(at(event));
  const box = element.querySelector('.box');
  box.classList.add('on');
  Object.assign(box.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
});
element.addEventListener('pointerup', (event) => {
  if (!start) return;
  const box = span(at(event));
  start = null;
  trigger('crop', { box: box[2] - box[0] < 0.03 || box[3] - box[1] < 0.03 ? null : box });
});
element.addEventListener('pointercancel', () => {
  if (!start) return;
  start = null;
  const box = element.querySelector('.box');
  [box.className, box.style.cssText] = before;
});
element.addEventListener('click', (event) => {
  if (event.target.closest('.clear')) trigger('clear', {});
});
