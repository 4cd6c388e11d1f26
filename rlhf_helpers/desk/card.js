// What the labelling card does in the browser.  `this` is the <style> element in it; CONFIG is JSON of our own.
// Ours from the first to the last character: no text of a model or of a reader is ever put into it.
const box = this.closest('.widget-vbox'), C = CONFIG;
if (!box || box.dataset.live) return;
box.dataset.live = 'yes';
box.classList.add('rlhf-live');
box.setAttribute('data-lm-suppress-shortcuts', 'true');  // for JupyterLab, which listens first
box.tabIndex = -1;                                       // a click beside the buttons keeps the focus here
const find = s => box.querySelector(s), all = s => [...box.querySelectorAll(s)];
const fill = words => {
  const n = waiting().length || outbox.length;
  return words.replace('{n}', n + (n === 1 ? ' choice' : ' choices'));
};
const hex = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');

// ------------------------------------------------------------ the outbox: choices that the kernel has not confirmed
const page = hex();                                       // several pages may show this card
let outbox = [], store = null, count = 0, item = '', since = 0, pressed = 0, local = '', heard = '', told = '',
    busy = false, dead = false, wish = null,              // wish: the answer to be edited
    held = false;                                         // held: until the one that was not saved is chosen again

const say = words => {
  const line = find('[data-reply]');
  if (line && line.textContent !== words) line.textContent = words;
};
const keep = () => {                                     // each page under a name of its own
  const text = outbox.length ? JSON.stringify({at: Date.now(), outbox}) : '';
  try {
    if (text) localStorage.setItem(store + page, text);
    else localStorage.removeItem(store + page);
  } catch {                                              // no storage here, or no room in it: till the page is closed
    try { history.replaceState({...history.state, [store]: text}, ''); } catch { /* till it is reloaded */ }
  }
};
const adopt = () => {                                    // what this page, or another one, could not deliver
  let keys = [];
  try { keys = Object.keys(localStorage).filter(key => key.startsWith(store)); } catch { /* none here */ }
  const found = new Map();
  for (const text of [(history.state || {})[store], ...keys.map(key => localStorage.getItem(key))]) try {
    const old = JSON.parse(text || '{}');
    if (Date.now() - old.at < 30 * 864e5) for (const one of old.outbox) found.set(one.id, one);
  } catch { /* not ours */ }
  outbox = [...found.values()];
  keep();
  for (const key of keys) if (key !== store + page) localStorage.removeItem(key);
};
const send = () => {
  const wire = find('.rlhf-wire input');
  wire.value = JSON.stringify({n: ++count, page, heard, looking: local, choices: outbox});
  for (const kind of ['input', 'change']) wire.dispatchEvent(new Event(kind, {bubbles: true}));
};
const waiting = () => {                                  // the choices that are on their way and not taken back
  const back = new Set(outbox.map(one => one.of));
  return outbox.filter(one => one.item && !back.has(one.id));
};
const taken = () => waiting().map(one => one.item);
const wait = () => {
  if (!busy) [busy, told] = [true, ''];
  clear();
  if (!find('[data-reply][role=alert]')) say(fill(C.say.busy));  // else it has answered: something is wrong
  if (!dead) { advance(); send(); }
};
const advance = () => {                                  // the kernel is busy: go on with what is in the page
  const judged = find('[data-judged]')?.dataset.judged || '';
  const gone = new Set([...judged.split(' '), ...taken()]), stored = all('.rlhf-store template');
  const free = stored.filter(one => !gone.has(one.dataset.store));
  const next = free.find(one => one.dataset.store === local) || free[0];
  if (!next) return say(fill(C.say.none));
  local = next.dataset.store;
  ['.rlhf-prompt', '.rlhf-card-a', '.rlhf-card-b'].forEach((place, i) => {
    const content = find(place + ' .widget-html-content');
    if (content) content.replaceChildren(...next.content.children[i].cloneNode(true).childNodes);
  });
};
const extras = () => {                                   // what else was said; of an edit, which answer and its text
  const sides = all('.rlhf-edit button'), text = find('.rlhf-edited textarea');
  const note = find('.rlhf-note textarea'), strengths = all('.rlhf-strength button');
  return {note: note ? note.value : '', reasons: all('.rlhf-reason.mod-active').map(b => b.innerText.trim()),
          strength: Math.max(0, strengths.findIndex(b => b.classList.contains('mod-active'))),
          side: ['', 'a', 'b'][Math.max(0, sides.findIndex(b => b.classList.contains('mod-active')))],
          text: text ? text.value : ''};
};
const clear = (edit = true) => {                         // here: what was typed may reach the kernel after the choice
  for (const text of all('.rlhf-note textarea' + (edit ? ', .rlhf-edited textarea' : ''))) if (text.value) {
    text.value = '';
    text.dispatchEvent(new Event('input', {bubbles: true}));
  }
  for (const chip of all('.rlhf-reason.mod-active')) chip.click();
  for (const buttons of [all('.rlhf-strength button'), edit ? all('.rlhf-edit button') : []]) {
    if (buttons.length && !buttons[0].classList.contains('mod-active')) buttons[0].click();
  }
};
const putBack = one => {                                 // what was typed with a choice that was not saved
  const note = find('.rlhf-note textarea'), strength = all('.rlhf-strength button')[one.strength];
  if (note && one.note && !note.value) {
    note.value = one.note;
    note.dispatchEvent(new Event('input', {bubbles: true}));
  }
  for (const chip of all('.rlhf-reason:not(.mod-active)')) {
    if (one.reasons.includes(chip.innerText.trim())) chip.click();
  }
  if (strength && !strength.classList.contains('mod-active')) strength.click();
  const side = one.side && all('.rlhf-edit button')['_ab'.indexOf(one.side)];
  if (one.name === 'edit' && side && !side.classList.contains('mod-active')) side.click();  // the kernel has its text
};
const proceed = () => {                                  // run the cells below this one, where the page lets us
  const app = window.jupyterapp, cells = app && app.shell.currentWidget && app.shell.currentWidget.content;
  const here = cells && cells.widgets ? cells.widgets.findIndex(cell => cell.node.contains(box)) : -1;
  if (here < 0 || here + 1 >= cells.widgets.length) return say(C.say.below);
  cells.activeCellIndex = here + 1;
  app.commands.execute('notebook:run-all-below');
  setTimeout(() => {                                     // it goes to the last cell, but what comes next is to be read
    cells.activeCellIndex = here + 1;
    cells.scrollToItem?.(here + 1, 'start');
  }, 300);
};
const press = name => {
  const now = performance.now(), waited = (now - since) / 1000, slow = Number(find('[data-item]').dataset.min);
  if (now - pressed < C.double * 1000) return;           // the second half of a double click
  if (dead) return say(fill(C.say.dead));
  if (['a', 'b', 'tie', 'both_bad', 'skip', 'edit'].includes(name)) {
    if (!item || taken().includes(item) || waited < C.double) return;
    if (waited < slow && name !== 'edit') return say(C.say.hasty.replace('{s}', slow));
  }
  [pressed, wish] = [now, null];
  const id = hex(), last = name === 'undo' ? waiting().pop() : null;
  if (name === 'undo') local = last ? last.item : '';
  const one = {id, item: /undo|continue|more/.test(name) ? '' : item, name, of: last ? last.id : '',
               seconds: Math.round(waited * 100) / 100, ...extras()};
  if (held && one.item) outbox.unshift(one); else outbox.push(one);
  held = false;
  keep();
  if (!busy || name === 'continue') send();
  if (item && !/undo|continue|more/.test(name)) clear(false);
  if (name === 'continue') return proceed();
  if (!busy) return expect(id);
  wait();
  if (last) putBack(last);
};
const expect = id => {                                   // an answer of the kernel; say so if it does not come
  const open = () => outbox.some(one => one.id === id);
  setTimeout(() => { if (open()) wait(); }, C.busy * 1000);
  setTimeout(() => { if (open()) say(fill(C.say.late)); }, C.late * 1000);
};
const opens = mine => {                                  // the kernel opens the field to edit in, maybe late
  const [at, place] = mine, line = find('[data-reply]'), side = all('.rlhf-edit button')[place];
  if (wish !== mine || dead || !line || !side) return;
  const opened = at !== item || find('.rlhf-edited').checkVisibility();
  if (place && (outbox.length || !opened)) {              // its pair may have been shown after it was asked for
    if (!outbox.length && !side.classList.contains('mod-active')) side.click();
    if (mine.length < 3) say(C.say.opens);
    mine[2] = setTimeout(opens, 300, mine);
  } else if (line.textContent === C.say.opens) say('');
};
const hear = reply => {                                  // what the kernel says to this page, and to another one
  const first = !heard, other = reply.dataset.page && reply.dataset.page !== page && !first;
  heard = reply.dataset.reply;
  if (!other) {
    const words = reply.textContent;                      // of choices that waited, some may be answered before others
    told = !busy ? words : told.includes(words) ? told : (told + ' ' + words).trim();
    if (told !== words) say(told);
  } else if (outbox.length && busy) say(fill(C.say.busy));
  else say((told + ' ' + C.say.other + reply.textContent).trim());
};
setInterval(() => { if (outbox.length && box.isConnected && !dead && !held) send(); }, 3000);  // none gets lost on the way

// ------------------------------------------------------------ what the kernel changed on the screen
const look = () => {
  for (const asked of all('.rlhf-asked')) asked.tabIndex = asked.scrollHeight > asked.clientHeight ? 0 : -1;  // for keys
  for (const text of all('.rlhf-paper, .rlhf-asked')) {   // no text, or none that can be seen
    text.toggleAttribute('data-empty', !/[^\s\p{Cf}]/u.test(text.textContent));
  }
  const cut = !!(box.closest('.jupyter-widgets-disconnected') || find('.jupyter-widgets-disconnected'));
  if (cut && !dead) { dead = true; say(outbox.length ? fill(C.say.dead) : C.say.cut); }
  box.classList.toggle('rlhf-cut', cut);
  const prompt = find('.rlhf-prompt [data-item]'), reply = find('[data-acks]');
  if (!prompt || !reply) return;
  if (!store) {
    store = 'rlhf ' + prompt.dataset.log;
    adopt();
    if (outbox.length) { send(); expect(outbox[0].id); }
  }
  const acks = new Set(reply.dataset.acks.split(' ')), before = outbox.length;
  const wrong = !!find('[data-reply][role=alert]'), answered = outbox.filter(one => acks.has(one.id));
  const edited = !wrong && answered.some(one => one.name === 'edit');
  const failed = wrong && answered.filter(one => one.item).pop();  // the kernel stops at the first that it can't save
  outbox = outbox.filter(one => !acks.has(one.id));
  if (outbox.length !== before) keep();
  if (edited) clear();
  if (reply.dataset.reply !== heard) hear(reply);
  if (failed) {                                          // it is asked again, and those behind it wait for that
    [local, busy, held] = ['', false, outbox.length > 0];
    if (held) say(reply.textContent + ' ' + fill(C.say.held));
    putBack(failed);
  }
  if (outbox.length && taken().includes(prompt.dataset.item)) { if (local) advance(); }
  else if (!outbox.length) [local, busy] = ['', false];
  const shown = find('.rlhf-prompt [data-item]').dataset.item;
  if (shown !== item) [item, since] = [shown, performance.now()];
  const marks = find('.rlhf-press-marks');                // here, since the kernel may be busy
  if (marks) box.classList.toggle('rlhf-unmarked', !marks.classList.contains('mod-active'));
  for (const b of all('.widget-toggle-button, .rlhf-strength button, .rlhf-edit button')) {
    const on = String(b.classList.contains('mod-active'));
    if (b.getAttribute('aria-pressed') !== on) b.setAttribute('aria-pressed', on);
  }
};
new MutationObserver(look).observe(
  box, {childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'data-acks']});
look();
if (C.whole) {                                            // a page that is nothing but the card
  box.classList.add('rlhf-whole');
  if (document.activeElement === document.body) box.focus({preventScroll: true});
  window.addEventListener('beforeunload', e => { if (outbox.length && !window.comesBack) e.preventDefault(); });
}

// ------------------------------------------------------------ mouse, touch and keys
box.addEventListener('click', e => {
  const button = e.target.closest('.rlhf-press'), card = e.target.closest('.rlhf-card'), chosen = getSelection();
  const ranked = e.target.closest('.rlhf-ranked');
  if (ranked && (chosen.isCollapsed || !ranked.contains(chosen.anchorNode)) && !e.target.closest('button')) {
    ranked.querySelector('button').click();
  }
  const side = all('.rlhf-edit button').indexOf(e.target.closest('button'));
  if (e.isTrusted && side >= 0) setTimeout(opens, C.busy * 1000, wish = [item, side]);
  if (!find('.rlhf-wire input')) return;                  // then the buttons speak to the kernel themselves
  if (button) {
    e.stopPropagation();
    press(button.className.match(/rlhf-press-(\w+)/)[1]);
  } else if (card && item && (chosen.isCollapsed || !card.contains(chosen.anchorNode))) {
    press(card.classList.contains('rlhf-card-a') ? 'a' : 'b');
  }
}, true);
(C.whole ? document : box).addEventListener('keydown', e => {
  e.stopPropagation();                                    // for front ends that listen last
  if (e.repeat && e.target.closest('button')) e.preventDefault();  // a held Enter presses once
  if (e.key === 'Escape') return box.focus({preventScroll: true});
  if (!C.keys || e.repeat || e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.target.closest('input, textarea, select')) return;
  const place = /^(?:Key|Digit)(.)$/.exec(e.code);        // where a keyboard has other letters than ours
  const key = (place && !/^[a-z0-9]$/i.test(e.key) ? place[1] : e.key).toLowerCase();
  const strengths = all('.rlhf-strength button');
  const button = C.keys[key] ? find('.rlhf-press-' + C.keys[key]) : strengths['0123'.indexOf(key)];
  if (button && button.checkVisibility()) { e.preventDefault(); button.click(); }
});
