// The slider of a result, and the cards of earlier results: one listener each, whatever is shown.
element.addEventListener("input", (event) => {
  if (!event.target.classList.contains("dp-slider")) return;
  const views = event.target.parentElement.querySelectorAll(".dp-views img");
  views.forEach((view, number) => { view.hidden = number !== Number(event.target.value); });
});
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-result]");
  if (card) trigger("select", { name: card.dataset.result });
});
