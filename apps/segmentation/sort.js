element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-column]');
  if (!button) return;
  const heading = button.closest('th'), column = Number(button.dataset.column), table = button.closest('table');
  const first = column ? 'descending' : 'ascending';
  const order = heading.ariaSort === first ? (column ? 'ascending' : 'descending') : first;
  for (const other of heading.parentElement.children) other.ariaSort = other === heading ? order : 'none';
  const value = (row) => row.children[column].textContent;
  const compare = (a, b) => column ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => order === 'ascending' ? compare(a, b) : compare(b, a));
  table.tBodies[0].append(...rows);
});
