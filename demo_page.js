// Asks the server and shows what it answers; whatever it answers is put in as text, never as HTML.
const message = document.querySelector("#message");
const marked = document.querySelector("#marked");

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Text of either direction inside a line of its own direction.
const isolated = (text) => element("bdi", "", text);

const complain = (text) => {
  message.textContent = text;
  message.hidden = !text;
};

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 2 : 1)} %`;

const fillChoice = (row, probability, ...content) => {
  const bar = element("span", "bar");
  bar.style.setProperty("--share", probability);
  const label = element("span");
  label.append(...content);
  row.classList.add("choice");
  row.append(element("span", "", percent(probability)), bar, label);
  return row;
};

const post = async (path, content, signal) => {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Was it ended?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server refused this (${response.status}).`);
  return answer;
};

// Characters as the server counts them: an emoji is one, not two.
const isTooLong = (title, text, most) => {
  const length = [...text].length;
  if (length > most) complain(`${title} has ${length.toLocaleString("en")} characters; the most is ${most.toLocaleString("en")}.`);
  return length > most;
};

const submitWith = (form, work) => {
  const button = form.querySelector("button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    complain("");
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      complain(error.message);
    } finally {
      button.disabled = false;
    }
  });
};

// --------------------------------------------------------------------------------------------- answers
const ask = document.querySelector("#ask");
if (ask) {
  const context = document.querySelector("#context");
  const question = document.querySelector("#question");
  const result = document.querySelector("#answer");
  const verdict = document.querySelector("#verdict");
  const list = document.querySelector("#n_best");

  const showMark = (text, entry) => {
    marked.replaceChildren(text.slice(0, entry.begin));
    if (entry.text) {
      const mark = element("mark", "", text.slice(entry.begin, entry.end));
      marked.append(mark, text.slice(entry.end));
      mark.scrollIntoView({ block: "nearest" });
    } else {
      marked.append(text.slice(entry.begin));
    }
  };

  const showAnswer = (text, answer) => {
    verdict.replaceChildren(element("strong", "", ""), ` with probability ${percent(answer.probability)}`);
    verdict.firstChild.append(answer.answer ? isolated(answer.answer) : "no answer in the text");
    if (answer.null_odds !== null) {
      verdict.append(`; odds of no answer (logit) ${answer.null_odds.toFixed(2)}`);
    }
    const rows = answer.n_best.map((entry) => {
      const row = fillChoice(element("button"), entry.probability, entry.text ? isolated(entry.text) : "(no answer)");
      row.type = "button";
      row.addEventListener("click", () => choose(row, entry));
      const item = element("li");
      item.append(row);
      return item;
    });
    const choose = (row, entry) => {
      for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", other === row);
      showMark(text, entry);
    };
    list.replaceChildren(...rows);
    result.hidden = false;
    const best = answer.n_best.findIndex((entry) => entry.text === answer.answer);
    choose(rows[best].firstChild, answer.n_best[best]);
  };

  submitWith(ask, async () => {
    const text = context.value;
    if (!question.value.trim()) return complain("Type a question first.");
    if (isTooLong("The text", text, Number(ask.dataset.maxCharacters))) return;
    if (isTooLong("The question", question.value, Number(ask.dataset.maxQuestion))) return;
    showAnswer(text, await post("answer", { context: text, question: question.value }));
  });
}

// ---------------------------------------------------------------------------------------------- tokens
const examine = document.querySelector("#examine");
if (examine) {
  const context = document.querySelector("#context");
  const detail = document.querySelector("#detail");
  let shown = { text: "", tokens: [], spans: [], alternatives: new Map() };
  let chosen = -1;
  let request = null;
  let pause = 0;

  const showDetail = (place, note) => {
    const token = shown.tokens[place];
    const found = shown.alternatives.get(place);
    const title = element("h2");
    title.append(isolated(token.token));
    detail.replaceChildren(title, element("p", "", `replaced with probability ${percent(token.probability)}`));
    if (found) {
      const list = element("ol");
      for (const entry of found.best) list.append(fillChoice(element("li"), entry.probability, isolated(entry.token)));
      detail.append(
        element("p", "faint", "In its place, with it masked, the generator expects:"),
        list,
        element("p", "faint", `the token itself: ${percent(found.probability)}`),
      );
    } else if (note) {
      detail.append(element("p", "faint", note));
    }
  };

  const fetchAlternatives = async (place) => {
    request?.abort();
    request = new AbortController();
    const asked = shown;
    try {
      const answer = await post("alternatives", { text: asked.text, places: [place] }, request.signal);
      asked.alternatives.set(place, answer.alternatives[0]);
      if (asked === shown && place === chosen) showDetail(place);
    } catch (error) {
      if (error.name !== "AbortError" && asked === shown && place === chosen) showDetail(place, error.message);
    }
  };

  const choose = (place) => {
    if (place === chosen || !(place in shown.spans)) return;
    if (chosen in shown.spans) {
      shown.spans[chosen].classList.remove("chosen");
      shown.spans[chosen].tabIndex = -1;
    }
    chosen = place;
    shown.spans[place].classList.add("chosen");
    shown.spans[place].tabIndex = 0;
    clearTimeout(pause);
    const isWanted = examine.dataset.generator && !shown.alternatives.has(place);
    showDetail(place, isWanted ? "asking the generator …" : "");
    // A pointer that only passes over asks nothing.
    if (isWanted) pause = setTimeout(() => fetchAlternatives(place), 120);
  };

  const placeOf = (event) => shown.spans.indexOf(event.target);
  marked.addEventListener("pointerover", (event) => choose(placeOf(event)));
  marked.addEventListener("click", (event) => choose(placeOf(event)));
  marked.addEventListener("focusin", (event) => choose(placeOf(event)));
  marked.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const next = shown.spans[placeOf(event) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });

  const showTokens = (text, tokens) => {
    const pieces = [];
    let end = 0;
    const spans = tokens.map((token) => {
      // Several tokens may stand for one character: the first shows it, and the others are empty.
      const begin = Math.max(end, token.begin);
      const span = element("span", token.probability >= 0.5 ? "token replaced" : "token", text.slice(begin, token.end));
      span.style.setProperty("--share", token.probability);
      span.tabIndex = -1;
      pieces.push(text.slice(end, token.begin), span);
      end = Math.max(end, token.end);
      return span;
    });
    marked.replaceChildren(...pieces, text.slice(end));
    if (spans.length) spans[0].tabIndex = 0;
    request?.abort();
    shown = { text, tokens, spans, alternatives: new Map() };
    chosen = -1;
    const doubted = tokens.filter((token) => token.probability >= 0.5).length;
    detail.replaceChildren(
      element("p", "", `${tokens.length.toLocaleString("en")} tokens, ${doubted.toLocaleString("en")} more likely replaced than not.`),
      element("p", "faint", "Point at a token, or reach it with Tab and the arrow keys."),
    );
    document.querySelector("#tokens").hidden = false;
  };

  submitWith(examine, async () => {
    const text = context.value;
    if (isTooLong("The text", text, Number(examine.dataset.maxCharacters))) return;
    showTokens(text, (await post("tokens", { text })).tokens);
  });
}
