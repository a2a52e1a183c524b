// A step of the film: what each box is in it, waiting, now or past. A film drawn anew begins at its first step.
const SECONDS = 1.1;
let playing = null;
const film = () => element.querySelector('.film');
const rest = () => { clearInterval(playing); playing = null; show(at()); };
const at = () => Number(element.querySelector('.bar input')?.value ?? 0);
const show = (step) => {
  const now = film();
  if (!now) return;
  const last = Number(now.dataset.steps);
  now.querySelector('.bar input').value = step;
  now.querySelector('output').textContent = `Step ${step} of ${last}`;
  now.querySelectorAll('svg g[data-step]').forEach((box) => {
    const own = Number(box.dataset.step);
    box.setAttribute('class', own > step ? 'waiting' : own === step ? 'now' : 'past');
  });
  const list = now.querySelector('.steps');
  list.querySelectorAll('li').forEach((line) => {
    if (Number(line.dataset.step) !== step) return line.removeAttribute('aria-current');
    line.setAttribute('aria-current', 'step');
    list.scrollTop = line.offsetTop - list.offsetTop - list.clientHeight / 3;
  });
  now.querySelector('[data-go="-1"]').disabled = step === 0;
  now.querySelector('[data-go="1"]').disabled = step === last;
  const play = now.querySelector('[data-go="play"]');
  play.setAttribute('aria-pressed', playing !== null);
  play.textContent = playing !== null ? 'Pause' : 'Play';
};
const forward = () => {
  const last = Number(film()?.dataset.steps ?? 0);
  if (at() < last) show(at() + 1);
  if (at() >= last) rest();
};
element.addEventListener('click', (event) => {
  const go = event.target.closest('button[data-go]')?.dataset.go;
  if (!go) return;
  if (go !== 'play') { rest(); show(at() + Number(go)); return; }
  if (playing !== null) { rest(); return; }
  if (at() === Number(film().dataset.steps)) show(0);
  playing = setInterval(forward, 1000 * SECONDS);
  forward();
});
element.addEventListener('input', (event) => { if (event.target.type === 'range') { rest(); show(at()); } });
watch('value', () => { clearInterval(playing); playing = null; show(0); });
show(0);
