// Moves along the axis, and shows what happened there and the state of the store. All texts are set
// as text, never as HTML.
(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);
  const { columns, keys, keys_left_out: keysLeftOut, first } = JSON.parse(byId('data').textContent);
  const drawing = byId('drawing');
  if (columns.length === 0) return;
  let current = -1;

  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };

  // The state of the store in a column: the newest change of each key up to it.
  const stateAt = (column) => {
    const state = new Map();
    for (const { changes } of columns.slice(0, column + 1)) {
      for (const [key, revision, value] of changes) state.set(key, { revision, value });
    }
    return [...state].sort(([one], [other]) => one - other);
  };

  const show = (column) => {
    column = Math.min(Math.max(column, 0), columns.length - 1);
    if (column === current) return;
    current = column;
    const { x, title, lines, revision, changes } = columns[column];
    byId('scrubber').value = column;
    byId('scrubber').setAttribute('aria-valuetext', title);
    byId('cursor').setAttribute('x', x - 6);
    byId('cursor').setAttribute('width', 12);
    byId('place-title').textContent = `At ${title}`;
    byId('place-lines').replaceChildren(...lines.map((line) => element('li', line)));
    const changed = new Set(changes.map(([key]) => key));
    const state = stateAt(column);
    byId('state').hidden = state.length === 0;
    byId('state').tBodies[0].replaceChildren(...state.map(([key, version]) => {
      const row = document.createElement('tr');
      const value = version.value === null ? '(deleted)' : version.value;
      row.append(element('td', keys[key]), element('td', value), element('td', version.revision));
      row.classList.toggle('changed', changed.has(key));
      row.classList.toggle('gone', version.value === null);
      return row;
    }));
    const notes = [];
    if (state.length === 0) notes.push(`The history has no values up to revision ${revision}.`);
    if (keysLeftOut > 0) notes.push(`${keysLeftOut} more keys are not shown.`);
    byId('state-note').textContent = notes.join(' ');
  };

  // Shows a column, and keeps it in the address. Moving the mouse does not change the address.
  const visit = (column) => {
    show(column);
    history.replaceState(null, '', `#${columns[current].hash}`);
  };

  // Scrolls the drawing to the column.
  const reveal = () => {
    const scroll = drawing.parentElement;
    const { x } = columns[current];
    if (x < scroll.scrollLeft + 40 || x > scroll.scrollLeft + scroll.clientWidth - 40) {
      scroll.scrollLeft = x - scroll.clientWidth / 2;
    }
  };

  const fromAddress = () => {
    const hash = location.hash.slice(1);
    let column = columns.findIndex((candidate) => candidate.hash === hash);
    if (column < 0 && hash.startsWith('rev=')) {
      const revision = Number(hash.slice(4));
      column = columns.findIndex((candidate) => candidate.revision >= revision);
    }
    show(column < 0 ? first : column);
    reveal();
  };

  const nearest = (event) => {
    const box = drawing.getBoundingClientRect();
    const x = (event.clientX - box.left) * (drawing.viewBox.baseVal.width / box.width);
    let best = 0;
    columns.forEach((column, i) => {
      if (Math.abs(column.x - x) < Math.abs(columns[best].x - x)) best = i;
    });
    return best;
  };

  // The names of the lanes stay in sight while the drawing scrolls, above everything else.
  const names = [...drawing.querySelectorAll('.lane-name')];
  drawing.append(...names);
  drawing.parentElement.addEventListener('scroll', (event) => {
    for (const name of names) name.setAttribute('x', 12 + event.target.scrollLeft);
  });
  byId('scrubber').max = columns.length - 1;
  byId('scrubber').addEventListener('input', (event) => visit(Number(event.target.value)));
  byId('back').addEventListener('click', () => visit(current - 1));
  byId('next').addEventListener('click', () => visit(current + 1));
  drawing.addEventListener('mousemove', (event) => show(nearest(event)));
  drawing.addEventListener('click', (event) => visit(nearest(event)));
  addEventListener('hashchange', fromAddress);
  addEventListener('keydown', (event) => {
    if (event.target.matches('input') || event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: columns.length - 1 };
    if (event.key in steps) {
      event.preventDefault();
      visit(steps[event.key]);
      reveal();
    }
  });
  for (const item of document.querySelectorAll('[data-edge]')) {
    const lit = (is) => () => {
      drawing.classList.toggle('picking', is);
      const edge = drawing.querySelector(`.edge-${item.dataset.edge}`);
      if (edge) edge.classList.toggle('lit', is);
    };
    item.addEventListener('mouseenter', lit(true));
    item.addEventListener('mouseleave', lit(false));
    item.addEventListener('focus', lit(true));
    item.addEventListener('blur', lit(false));
  }
  document.querySelector('.controls').hidden = false;
  byId('place').hidden = false;
  fromAddress();
})();
