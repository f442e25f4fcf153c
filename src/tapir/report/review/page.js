"use strict";
// One pair after the other, three questions each. The page knows the answers as a and b only. Every text of the run is
// put in as text. A rating is on disk before the next pair is shown.
(() => {
  const $ = (id) => document.getElementById(id);
  const form = $("form");
  const task = $("task");
  const list = $("list");
  let state = { pairs: [], tasks: [] };
  let place = 0; // of the pair shown; the number of pairs where the review is over
  let again = false; // whether skipped pairs are looked at once more
  let busy = false;
  let looked = 0; // milliseconds this pair was looked at
  let since = performance.now();

  // What is known ----------------------------------------------------------------------------------

  const isSkipped = (rated) => rated && !rated.preference && !rated.difficulty && !rated.task;
  const isOwed = (pair) => !pair.rated || (again && isSkipped(pair.rated));
  const nextFrom = (start) => {
    const { pairs } = state;
    const later = pairs.findIndex((pair, at) => at >= start && isOwed(pair));
    if (later >= 0) return later;
    const earlier = again ? -1 : pairs.findIndex(isOwed);
    return earlier >= 0 ? earlier : pairs.length;
  };
  const chosen = (name) => form.elements[name].value || null;
  const matches = () => {
    const typed = task.value.trim().toLowerCase();
    const place = (text) => text.toLowerCase().indexOf(typed);
    const begins = (text) => place(text) === 0;
    const word = (text) => !begins(text) && text.toLowerCase().split(/[^\p{L}\p{N}]+/u).some((one) => one.startsWith(typed));
    const found = [...state.tasks.filter(begins), ...state.tasks.filter(word)];
    return found.length ? found : state.tasks.filter((text) => place(text) > 0);
  };
  const settled = () => state.tasks.find((text) => text.toLowerCase() === task.value.trim().toLowerCase()) ?? null;

  // Talking to the server --------------------------------------------------------------------------

  const complain = (text) => {
    $("trouble").textContent = text;
    $("trouble").hidden = !text;
  };
  const call = async (path, content) => {
    const options = content && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    };
    let reply;
    try {
      reply = await fetch(path, options);
    } catch {
      throw new Error(`The review has been stopped; this pair is not saved. Start it again with  ${state.again ?? "tapir review"}  and open the address it prints.`);
    }
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.error);
    return body;
  };

  // Time -------------------------------------------------------------------------------------------

  const clock = () => {
    if (!document.hidden) looked += performance.now() - since;
    since = performance.now();
    return looked / 1000;
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) looked += performance.now() - since;
    since = performance.now();
  });
  const duration = (seconds) => {
    if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  };
  const typical = () => {
    const times = state.pairs.flatMap(({ rated }) => (rated && !isSkipped(rated) ? [rated.seconds] : [])).sort((x, y) => x - y);
    return times.length < 3 ? null : times[Math.floor(times.length / 2)];
  };

  // Showing ----------------------------------------------------------------------------------------

  const showProgress = () => {
    const { pairs } = state;
    const done = pairs.filter((pair) => pair.rated).length;
    const pace = typical();
    const left = pairs.length - done;
    $("progress").max = pairs.length;
    $("progress").value = done;
    $("count").textContent = place < pairs.length ? `Pair ${place + 1} of ${pairs.length}` : `${pairs.length} pairs`;
    $("pace").textContent = pace === null
      ? `${done} done`
      : `${done} done, ${duration(pace)} a pair${left ? `, about ${duration(pace * left)} left` : ""}`;
    document.title = place < pairs.length ? `${place + 1}/${pairs.length} Review` : "Review done";
  };

  const showSave = () => {
    const open = [
      ["preference", chosen("preference")],
      ["difficulty", chosen("difficulty")],
      ["task", settled() ?? task.value.trim()],
    ].flatMap(([name, value]) => (value ? [] : [name]));
    $("save").disabled = open.length === 3;
    $("save").classList.toggle("open", open.length > 0);
    $("save-text").textContent = open.length === 0 || open.length === 3 ? "Save" : `Save without ${open.join(" and ")}`;
  };

  const HINTS = {
    preference: "1 2 3 choose · Enter goes on · Backspace goes back · Space scrolls",
    difficulty: "1 to 5 choose · Enter goes on · Backspace goes back",
    task: "type, ↑ ↓ choose · Enter saves · Esc goes back",
  };
  const questionOf = (element) => element?.closest?.("fieldset")?.id.replace("ask-", "");
  const showHint = () => {
    const inside = questionOf(document.activeElement);
    $("hint").textContent = HINTS[inside] ?? "";
    $("save-key").textContent = inside === "task" ? "Enter" : "Ctrl Enter";
    for (const key of document.querySelectorAll("[data-key]")) {
      key.textContent = inside === "task" ? `Alt ${key.dataset.key}` : key.dataset.key;
    }
  };

  const ask = (name) => {
    const target = name === "task" ? task : $(`ask-${name}`);
    // a new pair is read from its top, and where the questions stay in sight nothing need move
    target.focus({ preventScroll: name === "preference" || getComputedStyle(form).position === "sticky" });
  };

  const show = (where, words) => {
    place = where;
    complain("");
    closeList();
    const over = place >= state.pairs.length;
    $("pair").hidden = over;
    $("end").hidden = !over;
    showProgress();
    looked = 0;
    since = performance.now();
    scrollTo({ top: 0, behavior: "instant" });
    if (over) {
      showEnd();
      $("said").textContent = words;
      return;
    }
    const pair = state.pairs[place];
    for (const name of ["instruction", "a", "b"]) $(name).textContent = pair[name];
    $("same").hidden = pair.a !== pair.b;
    form.reset();
    form.elements.preference.value = pair.rated?.preference ?? "";
    form.elements.difficulty.value = pair.rated?.difficulty ?? "";
    task.value = pair.rated?.task ?? "";
    $("back").disabled = place === 0;
    showSave();
    ask("preference");
    showHint();
    $("said").textContent = `${words} Pair ${place + 1} of ${state.pairs.length}.`;
  };

  const showEnd = () => {
    const { pairs } = state;
    const skipped = pairs.filter((pair) => isSkipped(pair.rated)).length;
    const open = pairs.filter((pair) => !pair.rated).length;
    const rated = pairs.length - skipped - open;
    $("end-head").textContent = skipped ? "Every pair has been seen" : "Every pair is rated";
    $("end-text").textContent = `${rated} of ${pairs.length} pairs rated by ${state.rater}${skipped ? `, ${skipped} skipped` : ""}. All of it is on disk.`;
    $("after").textContent = state.after;
    $("again").hidden = !skipped;
    $("end-head").focus();
  };

  // The list of tasks ------------------------------------------------------------------------------

  const showList = () => {
    const found = matches();
    const item = (textContent, looks) => Object.assign(document.createElement("li"), { textContent, ...looks });
    list.replaceChildren(...found.map((text, at) => item(text, { id: `task-${at}`, role: "option", dir: "auto" })));
    if (!found.length) list.append(item("no such task", { className: "none" }));
    list.hidden = false;
    task.setAttribute("aria-expanded", "true");
    point(found.length && task.value.trim() ? 0 : -1);
  };
  const point = (at) => {
    [...list.children].forEach((item, here) => item.setAttribute("aria-selected", String(here === at)));
    const item = list.children[at];
    if (item) task.setAttribute("aria-activedescendant", item.id);
    else task.removeAttribute("aria-activedescendant");
    item?.scrollIntoView({ block: "nearest" });
  };
  const pointed = () => [...list.children].findIndex((item) => item.getAttribute("aria-selected") === "true");
  const closeList = () => {
    list.hidden = true;
    task.setAttribute("aria-expanded", "false");
    task.removeAttribute("aria-activedescendant");
  };
  const take = (text) => {
    task.value = text;
    task.removeAttribute("aria-invalid");
    closeList();
    showSave();
  };

  // Doing ------------------------------------------------------------------------------------------

  const keep = async (said, words) => {
    if (busy) return;
    const pair = state.pairs[place];
    const rated = { ...said, seconds: clock() };
    busy = true;
    form.setAttribute("aria-busy", "true");
    try {
      await call("rate", { id: pair.id, ...rated });
      pair.rated = rated;
      show(nextFrom(place + 1), words);
    } catch (error) {
      complain(error.message);
    } finally {
      busy = false;
      form.removeAttribute("aria-busy");
    }
  };

  const save = () => {
    if (task.value.trim() && !settled()) {
      const at = pointed();
      const found = matches();
      if (at < 0 || list.hidden || !found[at]) {
        task.setAttribute("aria-invalid", "true");
        complain(`There is no task "${task.value.trim()}" in this run; choose one of the list, or leave it empty.`);
        task.focus();
        return;
      }
      take(found[at]);
    } else if (!task.value.trim() && !list.hidden && pointed() >= 0) {
      take(matches()[pointed()]);
    } else if (settled()) {
      take(settled());
    }
    const difficulty = chosen("difficulty");
    const said = { preference: chosen("preference"), difficulty: difficulty && Number(difficulty), task: settled() };
    if (isSkipped(said)) $("said").textContent = "Nothing is answered yet.";
    else keep(said, "Saved.");
  };
  const skip = () => {
    const { rated } = state.pairs[place];
    if (rated && !isSkipped(rated)) show(nextFrom(place + 1), "Left as it was.");
    else keep({ preference: null, difficulty: null, task: null }, "Skipped.");
  };
  const back = () => {
    if (place > 0 && !busy) show(place - 1, "Back.");
  };
  const lookAgain = () => {
    again = true;
    show(nextFrom(0), "Skipped pairs again.");
  };

  // Keys -------------------------------------------------------------------------------------------

  const choose = (name, digit) => {
    const inputs = [...form.elements[name]];
    if (!inputs[digit - 1]) return false;
    inputs[digit - 1].checked = true;
    showSave();
    ask(name === "preference" ? "difficulty" : "task");
    return true;
  };
  const onQuestion = (event, name) => {
    if (/^[1-9]$/.test(event.key)) return choose(name, Number(event.key));
    if (event.key === "Enter") ask(name === "preference" ? "difficulty" : "task");
    else if (event.key === "Backspace" && name === "difficulty") ask("preference");
    else if (event.key === "Backspace") back();
    else return false;
    return true;
  };
  const onTask = (event) => {
    const count = list.hidden ? 0 : matches().length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) showList();
      else if (count) point((pointed() + (event.key === "ArrowDown" ? 1 : pointed() < 0 ? 0 : -1) + count) % count);
    } else if (event.key === "Enter") save();
    else if (event.key === "Escape" || (event.key === "Backspace" && !task.value)) {
      if (!settled()) task.value = "";
      closeList();
      showSave();
      ask("difficulty");
    } else return false;
    return true;
  };
  const onLetter = (event) => {
    // with Alt some systems type another sign, so the place of the key counts
    const letter = event.altKey && event.code.startsWith("Key") ? event.code.slice(3) : event.key.toUpperCase();
    const over = place >= state.pairs.length;
    if (letter === "B") back();
    else if (letter === "S" && !over) skip();
    else if (letter === "S" && !$("again").hidden) lookAgain();
    else return false;
    return true;
  };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || !state.pairs.length) return;
    const typing = event.target === task;
    let done = false;
    if (event.ctrlKey || event.metaKey) {
      done = event.key === "Enter" && place < state.pairs.length;
      if (done && !busy) save();
    } else if (busy) done = /^[1-9bs]$/i.test(event.key) || event.key === "Enter";
    else if (event.altKey) done = typing && onLetter(event);
    else if (typing) done = onTask(event);
    else {
      const question = questionOf(event.target);
      if (question === "preference" || question === "difficulty") done = onQuestion(event, question);
      else if (event.target === document.body && /^[1-3]$/.test(event.key) && place < state.pairs.length) done = choose("preference", Number(event.key));
      done = done || onLetter(event);
    }
    if (done) event.preventDefault();
  });

  task.addEventListener("input", () => {
    task.removeAttribute("aria-invalid");
    showList();
    showSave();
  });
  task.addEventListener("focus", () => {
    task.select();
    showList();
    if (settled()) closeList();
  });
  task.addEventListener("blur", closeList);
  task.addEventListener("pointerdown", () => {
    if (document.activeElement === task && list.hidden) showList();
  });
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  list.addEventListener("click", (event) => {
    const item = event.target.closest("[role=option]");
    if (item) take(item.textContent);
  });
  form.addEventListener("change", showSave);
  form.addEventListener("focusin", showHint);
  form.addEventListener("focusout", () => requestAnimationFrame(showHint));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  $("back").addEventListener("click", back);
  $("skip").addEventListener("click", skip);
  $("end-back").addEventListener("click", back);
  $("again").addEventListener("click", lookAgain);
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(state.after);
      $("said").textContent = "Copied.";
      $("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren($("after"));
    }
  });

  const begin = async () => {
    try {
      state = await call("state");
    } catch (error) {
      complain(error.message);
      return;
    }
    $("run").textContent = `Review of ${state.run}`;
    $("rater").textContent = `by ${state.rater}`;
    show(nextFrom(0), "");
  };
  begin();
})();
